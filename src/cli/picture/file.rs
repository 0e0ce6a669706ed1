//! The file that a picture is written to.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::svg::BEGINNING;

/// A place where a picture may stand: nothing is there, or a picture that kloros drew.
pub(in crate::cli) struct SvgFile {
    path: PathBuf,
}

impl SvgFile {
    /// Returns the place at `path`. Whatever is there and was not drawn by kloros is not for kloros to replace: a mistyped
    /// name must not cost anybody a file. So is what is no plain file, such as a link or a device.
    pub(in crate::cli) fn at(path: &Path) -> anyhow::Result<SvgFile> {
        let shown = path.display();
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.with_context(|| format!("cannot look at {shown}"))?),
        };
        match metadata {
            Some(metadata) if !metadata.is_file() => {
                bail!("{shown} is no plain file: name another one for the picture")
            }
            Some(metadata) if metadata.len() > 0 && !is_ours(path)? => {
                bail!("{shown} is no picture that kloros drew, and is left as it is: name another file, or remove it")
            }
            _ => {}
        }
        let name = path.file_name().with_context(|| format!("{shown} names no file"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().with_context(|| format!("there is no folder {}", folder.display()))?;
        Ok(SvgFile { path: folder.join(name) })
    }

    /// Replaces what is there at one instant: a reader sees the old picture or the new one, whole.
    pub(in crate::cli) fn write(self, svg: &str) -> anyhow::Result<()> {
        // It may have come to be something else while trials ran.
        let SvgFile { path } = SvgFile::at(&self.path)?;
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        let beside = path.with_file_name(name);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
            file.write_all(svg.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().or_else(|error| {
            // The first error is the one that matters.
            fs::remove_file(&beside).ok();
            Err(error).with_context(|| format!("cannot write {}", path.display()))
        })
    }
}

fn is_ours(path: &Path) -> anyhow::Result<bool> {
    let mut beginning = vec![0; BEGINNING.len()];
    let mut file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    match file.read_exact(&mut beginning) {
        Ok(()) => Ok(beginning == BEGINNING.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) -> anyhow::Result<()> {
        SvgFile::at(path)?.write(&format!("{BEGINNING}>{text}</svg>"))
    }

    #[test]
    fn a_picture_replaces_nothing_but_a_picture_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("search.svg");
        write(&path, "old").unwrap();
        write(&path, "new").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("new</svg>"));
        fs::write(folder.path().join("empty"), "").unwrap();
        write(&folder.path().join("empty"), "new").unwrap();
        for theirs in ["notes", "<svg xmlns=\"http://www.w3.org/2000/svg\"><circle/></svg>"] {
            let path = folder.path().join("theirs");
            fs::write(&path, theirs).unwrap();
            let error = write(&path, "new").unwrap_err().to_string();
            assert!(error.contains("left as it is"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
        }
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(write(&folder.path().join("link"), "new").is_err());
        assert!(write(folder.path(), "new").is_err());
        assert!(write(&folder.path().join("no/such.svg"), "new").is_err());
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 4, "nothing is left beside: {left:?}");
    }
}
