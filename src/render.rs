//! A file of settings made of a template, for services that take neither variables nor arguments: domain files name this command.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context, bail, ensure};

/// Largest template, in bytes.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// Writes `file` whole, or not at all: the template with each `{NAME}` replaced by its value.
///
/// Fails where a name of `values` is not in the template, which would be a setting that does nothing, and where the template has a
/// `{NAME}` in capitals, digits and underscores that no value is given for. Any other brace stands for itself.
pub(crate) fn render(template: &Path, file: &Path, values: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let named = || template.display().to_string();
    let opened = fs::File::open(template).with_context(named)?;
    let mode = opened.metadata().with_context(named)?.mode() & 0o777;
    let mut text = String::new();
    opened.take(TEMPLATE_BYTES_MAX + 1).read_to_string(&mut text).with_context(named)?;
    ensure!(text.len() as u64 <= TEMPLATE_BYTES_MAX, "{} is larger than {TEMPLATE_BYTES_MAX} bytes", named());
    let rendered = filled(&text, values).map_err(|why| anyhow::anyhow!("{}{why}", named()))?;
    // A file of its own first, so that nobody reads half of one; two of these at once are the service's to avoid.
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let written = anew(Path::new(&beside), mode).and_then(|mut new| new.write_all(rendered.as_bytes()));
    written.and_then(|()| fs::rename(&beside, file)).with_context(|| format!("cannot write {}", file.display()))
}

/// Makes a file that was not there, for those who may read the template: it may hold secrets. No link is followed.
fn anew(path: &Path, mode: u32) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode & 0o700).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode | 0o200))?;
    Ok(file)
}

/// Returns the pair in `NAME=VALUE`. A value that could end what it stands in, or begin something else, is refused.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic());
    if !starts_well || !name.bytes().all(is_of_name) {
        return Err(format!("{name:?} is no name: use letters, digits and underscores"));
    }
    let is_plain = |each: u8| each.is_ascii_alphanumeric() || b"_-.:/,+@%".contains(&each);
    if value.is_empty() || !value.bytes().all(is_plain) {
        return Err(format!("{name}: {value:?} is no plain value: use letters, digits and _-.:/,+@%"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn is_of_name(each: u8) -> bool {
    each.is_ascii_alphanumeric() || each == b'_'
}

fn filled(text: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut rendered, mut unused) = (String::with_capacity(text.len()), values.clone());
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('{') {
            rendered.push_str(before);
            let name = after.split_once('}').map_or("", |(name, _)| name);
            if let Some(value) = values.get(name) {
                unused.remove(name);
                rendered.push_str(value);
                rest = &after[name.len() + 1..];
            } else if name.starts_with(|first: char| first.is_ascii_uppercase())
                && name.bytes().all(|each| is_of_name(each) && !each.is_ascii_lowercase())
            {
                return Err(format!(":{}: nothing is given for {{{name}}}", number + 1));
            } else {
                rendered.push('{');
                rest = after;
            }
        }
        rendered.push_str(rest);
    }
    match unused.into_keys().next() {
        Some(name) => Err(format!(" has no {{{name}}}: what is given for it would change nothing")),
        None => Ok(rendered),
    }
}

/// Becomes `program`, with its arguments. Returns only where that cannot be started.
pub(crate) fn become_program(argv: &[String]) -> anyhow::Result<()> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let error = std::os::unix::process::CommandExt::exec(std::process::Command::new(program).args(arguments));
    bail!("cannot start {program:?}: {error}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(pairs: &[&str]) -> BTreeMap<String, String> {
        pairs.iter().map(|text| pair(text).unwrap()).collect()
    }

    #[track_caller]
    fn check(text: &str, pairs: &[&str], expected: Result<&str, &str>) {
        assert_eq!(filled(text, &values(pairs)), expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn each_name_is_replaced_and_every_other_brace_stays() {
        check(
            "events { worker_connections {N}; }\nlisten {port};\nreturn 200 '{\"N\":\"{N}\"}';\nlocation ~ ^/a{2} {}\n",
            &["N=7", "port=80"],
            Ok("events { worker_connections 7; }\nlisten 80;\nreturn 200 '{\"N\":\"7\"}';\nlocation ~ ^/a{2} {}\n"),
        );
        check("{N}{N}", &["N=1"], Ok("11"));
        check("{", &[], Ok("{"));
    }

    #[test]
    fn what_is_missing_and_what_would_do_nothing_is_refused() {
        check("a\nb {LIMIT_2};", &[], Err(":2: nothing is given for {LIMIT_2}"));
        check("a", &["N=1"], Err(" has no {N}: what is given for it would change nothing"));
        check("{N", &["N=1"], Err(" has no {N}: what is given for it would change nothing"));
    }

    #[test]
    fn a_value_cannot_end_what_it_stands_in() {
        for text in ["N=1; daemon off", "N=1;", "N=a b", "N='", "N=}", "N=", "N=a\nb", "N", "=1", "1N=1", "N-M=1"] {
            assert!(pair(text).is_err(), "{text:?}");
        }
        assert_eq!(pair("log=/dev/null"), Ok(("log".to_owned(), "/dev/null".to_owned())));
    }

    #[test]
    fn a_file_is_written_whole_or_stays_as_it_was() {
        let folder = tempfile::TempDir::new().unwrap();
        let (template, file) = (folder.path().join("template"), folder.path().join("file"));
        fs::write(&template, "n {N};\n").unwrap();
        render(&template, &file, &values(&["N=1"])).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "n 1;\n");
        let error = render(&template, &file, &values(&["M=1"])).unwrap_err().to_string();
        assert!(error.contains("template:1: nothing is given for {N}"), "{error}");
        fs::write(&template, [0xff, 0xfe]).unwrap();
        assert!(render(&template, &file, &values(&[])).is_err());
        assert!(render(&folder.path().join("none"), &file, &values(&[])).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "n 1;\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside");
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(text in "[{}A-Za-z0-9_ \n\u{e4}]{0,60}") {
            let _ = filled(&text, &values(&["A=1", "b=2"]));
        }
    }

    #[test]
    fn who_may_not_read_the_template_may_not_read_what_is_made_of_it_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [template, file, other] = ["template", "file", "other"].map(|name| folder.path().join(name));
        fs::write(&template, "{N}").unwrap();
        fs::set_permissions(&template, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join("file.new")).unwrap();
        render(&template, &file, &values(&["N=7"])).unwrap();
        assert_eq!(
            (fs::read_to_string(&file).unwrap(), fs::read_to_string(&other).unwrap()),
            ("7".into(), "kept".into())
        );
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }
}
