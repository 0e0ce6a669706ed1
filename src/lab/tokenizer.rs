//! The tokenizer: four bytes of prompt make one token, one token makes one syllable of answer.
//!
//! Prompts are hashed, because the lab never needs them back. Answers are syllables, so that every token is valid text on
//! its own and a stream can be cut anywhere.

/// Number of distinct tokens.
pub(super) const VOCABULARY: usize = 512;
/// Bytes of prompt that become one token.
const BYTES_PER_TOKEN: usize = 4;

const ONSETS: [&str; 16] = ["b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"];
const VOWELS: [&str; 8] = ["a", "e", "i", "o", "u", "ai", "au", "ei"];
const CODAS: [&str; 4] = ["", "n", "r", "s"];

/// Returns the tokens of `text`: one for each four bytes begun, none for an empty text.
pub(super) fn encode(text: &str) -> Vec<u16> {
    text.as_bytes().chunks(BYTES_PER_TOKEN).map(token).collect()
}

/// Returns the text of `token`, a syllable and a blank; tokens beyond the vocabulary wrap around.
pub(super) fn decode(token: u16) -> String {
    let token = usize::from(token) % VOCABULARY;
    let (onset, rest) = (token % ONSETS.len(), token / ONSETS.len());
    let (vowel, coda) = (rest % VOWELS.len(), rest / VOWELS.len());
    format!("{}{}{} ", ONSETS[onset], VOWELS[vowel], CODAS[coda])
}

/// FNV-1a, folded into the vocabulary.
fn token(bytes: &[u8]) -> u16 {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    ((hash ^ (hash >> 16)) as usize % VOCABULARY) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn four_bytes_make_one_token_and_a_rest_makes_one_more() {
        let lengths: Vec<usize> = ["", "a", "abcd", "abcde", "äöü"].iter().map(|text| encode(text).len()).collect();
        assert_eq!(lengths, [0, 1, 1, 2, 2]);
    }

    #[test]
    fn every_token_has_a_text_of_its_own() {
        let texts: BTreeSet<String> = (0..VOCABULARY as u16).map(decode).collect();
        assert_eq!(texts.len(), VOCABULARY);
    }

    proptest! {
        #[test]
        fn every_text_becomes_known_tokens(text in ".{0,64}") {
            prop_assert!(encode(&text).iter().all(|token| usize::from(*token) < VOCABULARY));
        }

        #[test]
        fn every_token_becomes_text(token in any::<u16>()) {
            prop_assert!(decode(token).ends_with(' '));
        }
    }
}
