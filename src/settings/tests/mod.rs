//! The settings as an operator meets them: folders of files in, settings or complaints out.

mod catalogue;

mod change;

mod layers;

mod page;

mod service;

mod shipped;

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

#[test]
fn fuzzed_domain_dream_and_space_files_are_understood_or_complained_about_with_their_line() {
    let seed = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(name);
        fs::read(path).unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = |complaints: &Complaints, is_read: bool| {
        assert!(is_read || complaints.len() > 0, "what is not understood is complained about");
    };
    crate::fuzz::hold("domain files", &[seed("domain.toml"), Vec::new()], |bytes| {
        let mut complaints = Complaints::default();
        let domain = domain_file::read("small.toml", "small", &text(bytes), &mut complaints);
        said(&complaints, domain.is_some());
    });
    let mut none = Complaints::default();
    let domain = domain_file::read("small.toml", "small", &text(&seed("domain.toml")), &mut none);
    let domains = dream_file::Domains::from([("small".to_owned(), domain)]);
    crate::fuzz::hold("dream files", &[seed("dream.yaml"), Vec::new()], |bytes| {
        let mut complaints = Complaints::default();
        dream_file::read("dream.yaml", &text(bytes), &domains, &mut complaints);
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("space.toml");
    crate::fuzz::hold("space files", &[seed("space.toml"), Vec::new()], |bytes| {
        fs::write(&path, bytes).unwrap();
        if let Err(complaints) = space(&path) {
            said(&complaints, false);
        }
    });
}
