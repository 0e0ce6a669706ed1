//! What an id means that a person typed.

use std::collections::BTreeSet;

/// How many ids are named when a beginning means several.
const NAMED_MAX: usize = 5;

/// Returns the one of `ids` that `wanted` means: the whole id, or a beginning of one alone, with or without the letter and dash
/// that say what it is of. Otherwise returns why it means none, in words about a `noun`.
pub(super) fn pick<'a>(wanted: &str, noun: &str, ids: impl IntoIterator<Item = &'a str>) -> Result<&'a str, String> {
    let found: BTreeSet<&str> = ids.into_iter().filter(|id| begins(id, wanted)).collect();
    if let Some(whole) = found.get(wanted) {
        return Ok(whole);
    }
    match found.len() {
        0 => Err(format!("no {noun} begins with {wanted:?}")),
        1 => Ok(found.first().copied().unwrap_or_default()),
        many => {
            let named: Vec<&str> = found.into_iter().take(NAMED_MAX).collect();
            let more = if many > NAMED_MAX { format!(" and {} more", many - NAMED_MAX) } else { String::new() };
            Err(format!(
                "{wanted:?} is the beginning of {many}: {}{more}; type more of the one you mean",
                named.join(", ")
            ))
        }
    }
}

/// Returns whether `wanted` is a beginning of `id`, with or without its letter.
pub(super) fn begins(id: &str, wanted: &str) -> bool {
    let digits = id.split_once('-').filter(|(letter, _)| letter.len() == 1).map(|(_, digits)| digits);
    !wanted.is_empty() && (id.starts_with(wanted) || digits.is_some_and(|digits| digits.starts_with(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_meant_by_its_whole_text_or_by_a_beginning_that_no_other_has() {
        let ids = ["d-7f3a0000", "d-7f3b0000", "x-lab.queue.001", "x-lab.queue.0011"];
        for (wanted, meant) in [
            ("d-7f3a0000", Ok("d-7f3a0000")),
            ("7f3a", Ok("d-7f3a0000")),
            ("d-7f3b", Ok("d-7f3b0000")),
            ("x-lab.queue.001", Ok("x-lab.queue.001")),
            ("7f3", Err("is the beginning of 2: d-7f3a0000, d-7f3b0000")),
            ("lab.q", Err("is the beginning of 2")),
            ("nosuch", Err("no deployment begins with \"nosuch\"")),
            ("", Err("no deployment")),
            ("d-", Err("is the beginning of 2")),
        ] {
            match (pick(wanted, "deployment", ids), meant) {
                (Ok(found), Ok(meant)) => assert_eq!(found, meant, "{wanted}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{wanted}: {why}"),
                (found, meant) => panic!("{wanted}: {found:?} is not {meant:?}"),
            }
        }
    }
}
