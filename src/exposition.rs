//! What services say of themselves in the text format of Prometheus: fetched, and its histograms compared.

use std::{collections::BTreeMap, time::Duration};

/// The largest text that is read, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a scrape may take.
const SCRAPE_MAX: Duration = Duration::from_secs(5);

/// The metric that tells a restart even where the counters have already passed their old values.
pub(crate) const STARTED_AT: &str = "process_start_time_seconds";

/// One line that counts something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// Returns what a line says; `None` for comments, and for what is no sample. Values of labels may hold anything, as routes do:
    /// `path="/users/{id}"`.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let line = line.trim();
        let end = line.find(|each: char| each == '{' || each.is_whitespace())?;
        let (name, mut rest) = line.split_at(end);
        let plain = |each: u8| each.is_ascii_alphanumeric() || each == b'_' || each == b':';
        if name.is_empty() || !name.bytes().all(plain) {
            return None;
        }
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.trim_start().strip_prefix('{') {
            rest = inside;
            loop {
                rest = rest.trim_start_matches(|each: char| each == ',' || each.is_whitespace());
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let (label, quoted) = rest.split_once('=')?;
                let (value, after) = unquoted(quoted.trim_start())?;
                labels.insert(label.trim().to_owned(), value);
                rest = after;
            }
        }
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// Returns what stands between the quotes at the start of `text`, and what follows them.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('"')?;
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, each) in inside.char_indices() {
        match (is_escaped, each) {
            (true, 'n') => value.push('\n'),
            (true, _) => value.push(each),
            (false, '"') => return Some((value, &inside[at + 1..])),
            (false, '\\') => {}
            (false, _) => value.push(each),
        }
        is_escaped = !is_escaped && each == '\\';
    }
    None
}

/// How many observations were at most `le`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) le: f64,
    pub(crate) count: f64,
}

/// Returns the text at `url`, as long as it is none too large, or why there is none in words.
pub(crate) async fn fetch(url: &str) -> Result<String, String> {
    let answer = async {
        let client = reqwest::Client::builder().no_proxy().timeout(SCRAPE_MAX).build()?;
        let mut answer = client.get(url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > TEXT_BYTES_MAX {
                break;
            }
        }
        Ok::<_, reqwest::Error>(body)
    };
    let body = answer.await.map_err(|error| error.without_url().to_string())?;
    if body.len() > TEXT_BYTES_MAX {
        return Err(format!("its text is larger than {TEXT_BYTES_MAX} bytes"));
    }
    String::from_utf8(body).map_err(|_| "its text is not UTF-8".to_owned())
}

/// Returns what was newly observed, or `None` when the histogram was started anew.
pub(crate) fn grown(now: &[Bucket], before: &[Bucket]) -> Option<Vec<Bucket>> {
    let same = now.len() == before.len() && now.iter().zip(before).all(|(one, other)| one.le == other.le);
    let new: Vec<Bucket> =
        now.iter().zip(before).map(|(now, before)| Bucket { le: now.le, count: now.count - before.count }).collect();
    let rising = new.windows(2).all(|pair| pair[0].count <= pair[1].count);
    (same && rising && new.first().is_some_and(|first| first.count >= 0.0)).then_some(new)
}

/// Returns the quantile by linear interpolation within its bucket, as Prometheus does.
///
/// `None` without observations, and without the bucket of all of them. Beyond the last finite bound that bound is
/// returned: the quantile is no smaller.
pub(crate) fn quantile(buckets: &[Bucket], q: f64) -> Option<f64> {
    let all = buckets.last().filter(|last| last.le == f64::INFINITY && last.count > 0.0)?;
    let rank = q * all.count;
    let at = buckets.iter().position(|bucket| bucket.count >= rank)?;
    let below = at.checked_sub(1).map(|at| buckets[at]);
    let bucket = buckets[at];
    if bucket.le == f64::INFINITY {
        return below.map(|below| below.le);
    }
    let below = below.unwrap_or(Bucket { le: bucket.le.min(0.0), count: 0.0 });
    let inside = bucket.count - below.count;
    let share = if inside > 0.0 { (rank - below.count) / inside } else { 1.0 };
    Some(below.le + (bucket.le - below.le) * share)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_value_of_a_label_may_hold_anything() {
        let read = |line: &str| Sample::read(line).map(|sample| (sample.name, sample.labels, sample.value));
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let found = |pairs: &[(&str, &str)], value: f64| Some(("a:b_total".to_owned(), labels(pairs), value));
        assert_eq!(read("a:b_total 7"), found(&[], 7.0));
        assert_eq!(read("  a:b_total{} 1.5e3 1700000000"), found(&[], 1500.0));
        let route = r#"a:b_total{path="/users/{id}",q="a=b, c", status="500",} 3"#;
        assert_eq!(read(route), found(&[("path", "/users/{id}"), ("q", "a=b, c"), ("status", "500")], 3.0));
        assert_eq!(read(r#"a:b_total {x="say \"no\"\\\n"} +Inf"#), found(&[("x", "say \"no\"\\\n")], f64::INFINITY));
        for none in [
            "",
            "# TYPE a counter",
            "a",
            "a{",
            "a{b",
            "a{b=",
            "a{b=\"",
            "a{b=\"c\"",
            "a{b=\"c\"}",
            "a{b=c} 1",
            "{} 1",
            "a b",
            "\u{0} \u{1}",
        ] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_quantile_beyond_the_last_bound_is_that_bound() {
        let bucket = |le, count| Bucket { le, count };
        assert_eq!(quantile(&[bucket(1.0, 1.0), bucket(f64::INFINITY, 10.0)], 0.95), Some(1.0));
        assert_eq!(quantile(&[bucket(f64::INFINITY, 10.0)], 0.95), None);
        assert_eq!(quantile(&[bucket(1.0, 10.0)], 0.95), None);
        assert_eq!(quantile(&[], 0.95), None);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "[a-z]{0,3}[ -~\u{e9}]{0,40}") {
            let _ = Sample::read(&line);
        }

        #[test]
        fn a_quantile_lies_in_the_bucket_of_its_rank(counts in prop::collection::vec(0_u32..50, 2..8), q in 0.01..0.99) {
            let last = counts.len() - 1;
            let mut count = 0.0;
            let buckets: Vec<Bucket> = counts.iter().enumerate().map(|(at, new)| {
                count += f64::from(*new);
                Bucket { le: if at == last { f64::INFINITY } else { (at + 1) as f64 }, count }
            }).collect();
            match quantile(&buckets, q) {
                None => prop_assert!(count == 0.0),
                Some(value) => {
                    let at = buckets.iter().position(|bucket| bucket.count >= q * count).unwrap().min(last - 1);
                    prop_assert!(at as f64 <= value && value <= (at + 1) as f64, "{value} in {buckets:?}");
                }
            }
        }
    }
}
