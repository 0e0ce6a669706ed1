//! Words: what of a text is compared, in any language.
//!
//! A word is a run of letters and digits in lower case, cut after five characters, which stands for a stemmer in every language
//! at once (`McNamee` and Mayfield, "Character n-gram tokenization for European language text retrieval", 2004). Scripts that
//! write without blanks are cut into pairs of characters.

use std::{collections::HashSet, sync::LazyLock};

/// How many characters of a word count.
const STEM_CHARS: usize = 5;

/// How many words of a text are looked at.
const WORDS_MAX: usize = 4096;

/// Returns the words of `text` as they are indexed and compared, at most 4,096.
pub fn stems(text: &str) -> Vec<String> {
    let mut stems = Vec::new();
    each_stem(text, |stem| stems.push(stem.to_owned()));
    stems
}

/// Shows the words of `text` as they are indexed and compared, at most 4,096, in their order. No word is kept: a look counts the
/// words of hundreds of texts.
pub(super) fn each_stem(text: &str, mut show: impl FnMut(&str)) {
    let (mut shown, mut word, mut pairs) = (0, String::new(), Vec::new());
    for run in split(text) {
        if run.is_ascii() {
            cut(run, &mut word);
        } else {
            push(&run.to_lowercase(), &mut pairs);
        }
        let words = if pairs.is_empty() { std::slice::from_ref(&word) } else { &pairs };
        for word in words.iter().take(WORDS_MAX - shown) {
            show(word);
            shown += 1;
        }
        pairs.clear();
        if shown == WORDS_MAX {
            return;
        }
    }
}

/// Returns the words of `text` that say what it is about, each once, in the order of the text: without stop-words.
pub fn telling(text: &str) -> Vec<String> {
    let mut stems = Vec::new();
    for run in split(text).map(str::to_lowercase).take(WORDS_MAX).filter(|run| !is_stop_word(run)) {
        push(&run, &mut stems);
    }
    let mut seen = std::collections::BTreeSet::new();
    stems.retain(|stem| seen.insert(stem.clone()));
    stems
}

/// Returns the runs of letters and digits of `text`, as they are written.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|each: char| !each.is_alphanumeric()).filter(|run| !run.is_empty())
}

/// Adds the words of a run in lower case.
fn push(run: &str, stems: &mut Vec<String>) {
    let word = |run: &str| {
        let mut word = String::new();
        cut(run, &mut word);
        word
    };
    if !run.chars().any(is_unspaced) {
        stems.push(word(run));
        return;
    }
    let mut other = String::new();
    let mut before = None;
    for each in run.chars() {
        if !is_unspaced(each) {
            stems.extend(alone(before.take()));
            other.push(each);
            continue;
        }
        if !other.is_empty() {
            stems.push(word(&std::mem::take(&mut other)));
        }
        if let Some((first, _)) = before {
            stems.push([first, each].iter().collect());
        }
        before = Some((each, before.is_none()));
    }
    stems.extend(alone(before));
    if !other.is_empty() {
        stems.push(word(&other));
    }
}

/// Returns the last character of a run where it has no neighbour.
fn alone(last: Option<(char, bool)>) -> Option<String> {
    last.and_then(|(each, is_alone)| is_alone.then(|| each.to_string()))
}

/// Writes what counts of a run, in lower case but for ASCII, into `word`. Numbers are names: `4711` and `47112` are no forms of one word.
fn cut(run: &str, word: &mut String) {
    let chars_max = if run.chars().any(char::is_numeric) { 4 * STEM_CHARS } else { STEM_CHARS };
    word.clear();
    word.extend(run.chars().map(|each| each.to_ascii_lowercase()).take(chars_max));
}

/// Returns whether `each` is of a script that writes without blanks, or whose words are long chains: Thai, Lao, Khmer, Burmese,
/// Kana, Han, Hangul.
pub(super) fn is_unspaced(each: char) -> bool {
    matches!(u32::from(each), 0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x3400..=0x4DBF
        | 0x4E00..=0x9FFF | 0xAC00..=0xD7AF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// Returns whether `word`, in lower case, says nothing about the topic, in English, German, French, Spanish or Italian.
pub fn is_stop_word(word: &str) -> bool {
    // Single letters are what is left of "I'm" or "l'eau"; a single digit may be an answer.
    let mut chars = word.chars();
    let is_a_letter = matches!((chars.next(), chars.next()), (Some(only), None) if only.is_ascii_alphabetic());
    is_a_letter || STOPS.contains(word)
}

/// The words of all languages. Each request asks for each of some thousand words whether it is here.
static STOPS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| STOP_WORDS.iter().flat_map(|language| language.split_ascii_whitespace()).collect());

/// How many characters make a token, roughly, in scripts that write words with blanks.
const CHARS_PER_TOKEN: u64 = 4;

/// Returns how many tokens a text has, estimated: a quarter of its ASCII characters and each other character.
pub fn tokens(text: &str) -> u64 {
    let (mut plain, mut other) = (0_u64, 0_u64);
    for each in text.chars() {
        if each.is_ascii() { plain += 1 } else { other += 1 }
    }
    plain.div_ceil(CHARS_PER_TOKEN) + other.div_ceil(2)
}

/// Words that are a thing in one of the languages, as `car`, `son`, `hat` or `man`, are in the list of none.
const STOP_WORDS: [&str; 5] = [ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN];

const ENGLISH: &str = "a about above after again all also am an and any are as at be because been before being below between both but \
    by can could did do does doing don down during each few for from further get got had has have having he her here hers him his \
    how if in into is isn it its itself just know let like ll make me more most my no nor not now of off ok okay on once only or \
    other our ours out over own please re really s same say said see she should so some such t tell than that the their theirs \
    them then there these they thing things this those through to too under until up us ve very want was we well were what when \
    where which while who whom why will with would yes yeah you your yours thanks thank hello hi remember again earlier told mentioned";

const GERMAN: &str = "aber alle allem allen aller alles als also am an andere anderen auch auf aus bei beim bin bis bist bitte da \
    dabei damit dann das dass dein deine dem den denn der des deshalb dich die dies diese diesem diesen dieser dieses dir doch \
    dort du durch ein eine einem einen einer eines er es etwas euch euer für gegen gerade gibt hab habe haben hatte hier hin \
    hinter ich ihm ihn ihnen ihr ihre im immer in ins ist ja jede jeder jetzt kann kannst kein keine können könnte machen mehr \
    mein meine meinem meinen meiner mich mir mit muss nach nein nicht nichts noch nun nur ob oder ohne schon sehr sein seine sich \
    sie sind so soll sondern sonst um und uns unser unter vom von vor waren warum was weil welche welchem welcher wenn wer \
    werde werden wie wieder will wir wird wo wurde würde zu zum zur zwischen danke hallo nochmal";

const FRENCH: &str = "ai ainsi alors après as au aucun aussi autre aux avant avec avez avoir avons bien bon bonjour ce cela ces cet \
    cette chez comme comment dans de des donc dont du elle elles en encore entre est et était été être eu fait faire il ils je la \
    le les leur leurs lui ma mais me merci même mes moi mon ne non nos notre nous on ont ou où oui par pas peu peut plus pour \
    pourquoi qu quand que quel quelle quelles quels qui quoi sa sans se ses si sont sous suis sur ta te tes toi ton tous tout \
    toute très tu un une vos votre vous voici voilà";

const SPANISH: &str = "al algo ante antes aquel aquí así aun aunque bien cada como con contra cual cuál cuando cuándo de del desde donde \
    dónde dos el él ella ellos en entre era eres es esa ese eso esta está estaba estas este esto estos estoy fue gracias ha había \
    han hasta hay he hola la las le les lo los más me mi mí mis mucho muy nada ni no nos nosotros nuestro o os otra otro para pero \
    poco por porque qué que quien quién se ser si sí sin sobre soy su sus también tan tanto te tener tengo ti tiene todo \
    todos tu tú tus un una uno unos usted ustedes ya yo";

const ITALIAN: &str = "ad agli ai al alla alle allo anche ancora avere c che chi ci ciao cioè col con contro cosa così cui da dagli \
    dai dal dalla dalle dei del della delle dello di dire dopo dove e è ed era essere fa fra gli grazie ha hai hanno ho i il \
    in io la le lei li lo loro lui ma me mi mia mie miei mio molto ne nei nel nella noi non nostro o ogni per perché però più \
    poi prima quale quando quanto quella quelle quello questa queste questi questo qui se sei senza si sia sono sta sto su sua \
    sue sul sulla suo tra tu tua tue tuo tutti tutto un una uno va vi voi";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(stems(text), expected, "{text}");
    }

    #[test]
    fn words_are_compared_in_lower_case_and_by_their_beginning() {
        check("Appointments, APPOINTED!", &["appoi", "appoi"]);
        check("l'été à Zürich", &["l", "été", "à", "züric"]);
        check("", &[]);
        check("?!…", &[]);
    }

    #[test]
    fn numbers_are_whole() {
        check("order 4711234 of x86_64", &["order", "4711234", "of", "x86", "64"]);
    }

    #[test]
    fn scripts_without_blanks_are_cut_into_pairs() {
        check("東京都に", &["東京", "京都", "都に"]);
        check("猫", &["猫"]);
        check("猫cat犬", &["猫", "cat", "犬"]);
        check("비밀번호", &["비밀", "밀번", "번호"]);
    }

    #[test]
    fn what_says_nothing_is_left_out_in_five_languages() {
        let texts = [
            ("What is the name of my dog?", vec!["name", "dog"]),
            ("Wie heißt mein Hund?", vec!["heißt", "hund"]),
            ("Comment est-ce que mon chien est ?", vec!["chien"]),
            ("¿Cuál es mi perro?", vec!["perro"]),
            ("Dove sono i gatti?", vec!["gatti"]),
            // What is nothing in French or German is something in English.
            ("Where is my car, my son and my hat?", vec!["car", "son", "hat"]),
        ];
        for (text, expected) in texts {
            assert_eq!(telling(text), expected, "{text}");
        }
    }

    #[test]
    fn every_stop_word_of_every_language_is_one() {
        let all = STOP_WORDS.iter().flat_map(|language| language.split_ascii_whitespace());
        assert!(all.clone().count() > 600 && all.clone().all(is_stop_word));
    }

    #[test]
    fn words_that_are_shown_are_those_that_are_returned() {
        for text in ["ΟΔΟΣ Straße İstanbul x86_64", "tomatoes and 日本語 ", "猫cat犬 4711", ""] {
            let mut shown = Vec::new();
            each_stem(text, |stem| shown.push(stem.to_owned()));
            let mut pushed = Vec::new();
            split(text).for_each(|run| push(&run.to_lowercase(), &mut pushed));
            assert_eq!(shown, pushed, "{text}");
        }
        assert_eq!(stems(&"tomatoes and 日本語 ".repeat(2000)).len(), WORDS_MAX);
    }

    #[test]
    fn tokens_are_estimated_in_every_script() {
        for (text, expected) in [("", 0), ("word", 1), ("words", 2), ("日本", 1), ("日本語", 2)] {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn a_very_long_text_has_an_end() {
        assert_eq!(stems(&"word ".repeat(100_000)).len(), WORDS_MAX);
        assert!(stems(&"日".repeat(100_000)).len() <= WORDS_MAX);
    }

    proptest! {
        #[test]
        fn a_stem_is_short_and_its_own_stem(text in "\\PC{0,60}") {
            for stem in stems(&text) {
                prop_assert!(stem.chars().count() <= 4 * STEM_CHARS && !stem.is_empty());
                prop_assert!(!stem.contains(|each: char| each.is_whitespace() || each == '"'));
            }
        }
    }
}
