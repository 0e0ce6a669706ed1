//! Reading a file of settings: a bounded, regular file of text, or what is embedded in the program.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::complaints::{Complaints, Place};

/// Largest file of settings that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Returns the text of `path` without a byte order mark; `None` with a complaint if it cannot be had.
pub(super) fn read(path: &Path, complaints: &mut Complaints) -> Option<String> {
    match text_of(path) {
        Ok(text) => Some(text),
        Err(what) => {
            complaints.add(Place::File(path.display().to_string()), "", what);
            None
        }
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let too_large = |bytes: u64| format!("has {bytes} bytes or more, {FILE_BYTES_MAX} are allowed");
    // Asked before it is opened: opening a pipe would wait for somebody to write into it.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large(FILE_BYTES_MAX + 1));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let read = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        format!("is no UTF-8 text: see line {}", read.split(|byte| *byte == b'\n').count())
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Returns the files of `folder` that end in `.toml`, by name; hidden ones, as editors leave them, are not meant.
pub(super) fn toml_files(folder: &Path, most: usize, complaints: &mut Complaints) -> Vec<PathBuf> {
    let listed: Result<Vec<PathBuf>, std::io::Error> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut files = match listed {
        Ok(files) => files,
        Err(error) => {
            complaints.add(Place::File(folder.display().to_string()), "", format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let hidden = |file: &Path| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    files.retain(|file| file.extension().is_some_and(|ending| ending == "toml") && !hidden(file));
    files.sort();
    if files.len() > most {
        let what = format!("holds {} files, {most} are read at most", files.len());
        complaints.add(Place::File(folder.display().to_string()), "", what);
        files.truncate(most);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<&str, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.toml");
        fs::write(&path, bytes).unwrap();
        assert_eq!(text_of(&path).as_deref(), expected.map_err(str::to_owned).as_ref().copied());
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        check("\u{feff}a = 1\n".as_bytes(), Ok("a = 1\n"));
        check(b"", Ok(""));
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_line() {
        check(b"a = 1\nb = \"\xff\"\n", Err("is no UTF-8 text: see line 2"));
    }

    #[test]
    fn a_file_of_a_gigabyte_is_refused_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.toml");
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(text_of(&path), Err("has 1073741824 bytes or more, 1048576 are allowed".to_owned()));
    }

    #[test]
    fn folders_devices_and_missing_files_are_refused() {
        assert_eq!(text_of(Path::new("/")), Err("is no regular file".to_owned()));
        assert_eq!(text_of(Path::new("/dev/zero")), Err("is no regular file".to_owned()));
        assert!(text_of(Path::new("/nonexistent/f.toml")).unwrap_err().starts_with("cannot be read: "));
    }
}
