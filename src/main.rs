//! The `kloros` binary.

use std::process::ExitCode;

use clap::Parser;

mod lab;

#[derive(Parser)]
enum Command {
    /// The practice server.
    #[command(subcommand)]
    Lab(lab::LabCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Lab(command) = Command::parse();
    match lab::run(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{:#}\n", anyhow::Error::new(error)));
            ExitCode::from(code)
        }
    }
}
