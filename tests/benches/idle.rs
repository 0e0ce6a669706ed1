//! What the daemon costs while it has nothing to do: `cargo bench --bench idle`.
//!
//! It starts the real program on the lab without a load, lets it settle, and reads what the kernel says of its process (not
//! of the lab's) over a window.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long the daemon settles before it is looked at.
const SETTLE: Duration = Duration::from_secs(10);

/// How long it is looked at.
const WINDOW: Duration = Duration::from_secs(30);

/// Clock ticks a second, as Linux counts them for user space on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is promised.
const CPU_SHARE_MAX: f64 = 0.01;
const RESIDENT_MIB_MAX: f64 = 60.0;

fn main() -> std::io::Result<()> {
    let home = tempfile::tempdir()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let settings = format!("[shell]\ndemo_load = false\nlog = \"error\"\nmetrics_address = \"127.0.0.1:{port}\"\n");
    fs::write(home.path().join("kloros.toml"), settings)?;
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_kloros"))
        .arg("--home")
        .arg(home.path())
        .arg("run")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let measured = measure(&daemon);
    end(&mut daemon)?;
    let (cpu_share, resident_mib) = measured?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "idle daemon over {} s:", WINDOW.as_secs())?;
    writeln!(
        out,
        "  cpu       {:.2} % of one core   (promised: below {:.0} %)",
        cpu_share * 100.0,
        CPU_SHARE_MAX * 100.0
    )?;
    writeln!(out, "  resident  {resident_mib:.1} MiB          (promised: below {RESIDENT_MIB_MAX:.0} MiB)")?;
    let kept = cpu_share < CPU_SHARE_MAX && resident_mib < RESIDENT_MIB_MAX;
    if kept { writeln!(out, "both kept") } else { Err(std::io::Error::other("NOT KEPT")) }
}

fn measure(daemon: &Child) -> std::io::Result<(f64, f64)> {
    std::thread::sleep(SETTLE);
    let (began, before) = (Instant::now(), cpu_ticks(daemon.id())?);
    std::thread::sleep(WINDOW);
    let spent = (cpu_ticks(daemon.id())? - before) / TICKS_PER_SECOND;
    Ok((spent / began.elapsed().as_secs_f64(), resident_mib(daemon.id())?))
}

/// Returns user and system time of the process so far.
fn cpu_ticks(pid: u32) -> std::io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name stands in brackets and may hold blanks; what follows it does not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok());
    ticks(11).zip(ticks(12)).map(|(user, system)| user + system).ok_or(std::io::ErrorKind::InvalidData.into())
}

fn resident_mib(pid: u32) -> std::io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib = line.trim().trim_end_matches("kB").trim().parse::<f64>();
    kib.map(|kib| kib / 1024.0).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

fn end(daemon: &mut Child) -> std::io::Result<()> {
    Command::new("kill").args(["-INT", &daemon.id().to_string()]).status()?;
    daemon.wait().map(drop)
}
