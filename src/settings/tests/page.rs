//! The page about writing a domain, held against the parser.

use std::collections::BTreeSet;

use super::*;
use crate::settings::shapes::{DOMAIN, DREAM};

const PAGE: &str = include_str!("../../../config/domains/README.md");

/// Returns the files that the page shows, by their names under the home.
fn shown() -> Vec<(String, String)> {
    let blocks = PAGE.split("\n```").skip(1).step_by(2);
    let named = blocks.filter_map(|block| {
        let (_, text) = block.split_once('\n')?;
        let name = text.lines().next()?.strip_prefix("# HOME/")?;
        Some((name.to_owned(), text.to_owned()))
    });
    named.collect()
}

#[test]
fn the_example_of_the_page_is_a_domain_as_it_stands() {
    let files = shown();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(files.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["domains/cache.toml", "dream.yaml"]);
    let catalogue = Home::new(&files).settings().catalogue;
    assert_eq!((catalogue.domains["cache"].knobs.len(), catalogue.experiments.len()), (2, 1));
    // A key that the parser does not know is no mistake that it would pass over.
    let (name, text) = files[0];
    let misspelt = text.replace("\nstop_within_s", "\nstop_wthin_s");
    let line = misspelt.lines().position(|line| line.starts_with("stop_wthin_s")).unwrap() + 1;
    let complaint =
        format!("domains/cache.toml:{line}: service.stop_wthin_s: unknown key; did you mean stop_within_s?");
    refused(&[(name, &misspelt), files[1]], &[&complaint]);
}

#[test]
fn the_page_names_every_key_and_every_kind_that_the_parser_knows() {
    let mut known = BTreeSet::new();
    DOMAIN.names(&mut known);
    DREAM.names(&mut known);
    assert!(known.len() > 60, "{known:?}");
    let words: BTreeSet<&str> = PAGE.split(|each: char| !each.is_ascii_alphanumeric() && each != '_').collect();
    let missing: Vec<&&str> = known.iter().filter(|name| !words.contains(**name)).collect();
    assert!(missing.is_empty(), "say in config/domains/README.md what these are: {missing:?}");
}
