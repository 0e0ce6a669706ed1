//! `kloros console`: where the console is, with the token that lets its page answer for who reads this.

use super::{Answer, ask::no, client::Client, out::Out};
use crate::{api::Token, home::Home, settings::Settings};

/// Says where the page is; a running daemon is told from one that would have to be started.
pub(super) fn console(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    let reached = Settings::load(home.root(), None)?.reached;
    let Some(address) = reached.address() else {
        let why =
            "the console is switched off: set `listen = \"127.0.0.1:9465\"` under [api] in kloros.toml and restart";
        return no(why, out);
    };
    if Client::find(home)?.is_none() {
        return no(&format!("no daemon runs in {}; start it with `kloros run`", home.root().display()), out);
    }
    // Behind the hash, so that no browser sends it anywhere: the page takes it from there.
    let url = format!("http://{address}/#token={}", Token::of(home)?.reveal());
    out.answer(&serde_json::json!({ "url": url }), || url.clone())?;
    Ok(Answer::Done)
}
