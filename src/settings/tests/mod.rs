//! The settings as an operator meets them: folders of files in, settings or complaints out.

mod catalogue;

mod layers;

mod shapes;

mod space;

use std::{ffi::OsString, fs, path::Path};

use super::*;

/// A home with files in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, environment: &[(&str, &str)]) -> Result<(Settings, Vec<PathBuf>), String> {
        let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let outcome = read(self.path(), None, environment);
        // The folder's name differs from run to run, so that complaints are compared without it.
        outcome.map_err(|complaints| complaints.to_string().replace(&format!("{}/", self.path().display()), ""))
    }

    fn settings(&self) -> Settings {
        self.read(&[]).unwrap().0
    }
}

#[track_caller]
fn refused(files: &[(&str, &str)], complaints: &[&str]) {
    assert_eq!(Home::new(files).read(&[]).unwrap_err().lines().collect::<Vec<_>>(), complaints);
}
