//! The token that gives a request over TCP the word of the daemon's own user: who can read the file is that user or root.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
};

use rustix::fs::OFlags;
use subtle::ConstantTimeEq as _;

use crate::home::Home;

/// How many random bytes a token is made of; it is twice as many digits long.
const BYTES: usize = 32;

/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024;

/// The token of a home.
#[derive(Clone)]
pub(crate) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(...)")
    }
}

impl Token {
    /// Returns the token in `.kloros/api.token` under `home`, and makes one that nobody can guess where there is none. A file
    /// that others may read is refused: its token is theirs as well.
    pub(crate) fn of(home: &Home) -> io::Result<Self> {
        let path = home.api_token();
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(nofollow);
        match options.open(&path) {
            Ok(mut file) => {
                let token = random()?;
                writeln!(file, "{token}").and_then(|()| file.sync_all()).inspect_err(|_| {
                    // Half a token must not be taken for one at the next start.
                    fs::remove_file(&path).ok();
                })?;
                return Ok(Self(token));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let file = fs::OpenOptions::new().read(true).custom_flags(nofollow).open(&path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.mode() & 0o077 != 0 {
            let why = format!("others may read {}: chmod 600 it, or remove it for a new one", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        let text = text.trim();
        if text.len() < BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why =
                format!("{} holds no token of at least {BYTES} characters: remove it for a new one", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns whether `presented` is the token, in a time that says nothing of how much of it was right.
    pub(super) fn is(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }

    /// Returns the token itself, for who may know it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

fn random() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        (folder, home)
    }

    #[test]
    fn a_token_is_made_once_for_its_owner_alone_and_each_home_has_another() {
        let ((_one, home), (_two, other)) = (home(), home());
        let token = Token::of(&home).unwrap();
        assert_eq!(token.reveal().len(), 2 * BYTES);
        assert_eq!(fs::metadata(home.api_token()).unwrap().mode() & 0o777, 0o600);
        assert!(Token::of(&home).unwrap().is(token.reveal()));
        assert!(!Token::of(&other).unwrap().is(token.reveal()));
        assert!(!token.is("") && !token.is(&token.reveal()[1..]));
        assert_eq!(format!("{token:?}"), "Token(...)");
    }

    #[test]
    fn a_token_that_others_may_read_or_that_is_short_or_a_link_is_refused() {
        let (folder, home) = home();
        Token::of(&home).unwrap();
        fs::set_permissions(home.api_token(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Token::of(&home).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(home.api_token(), fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "short\n", "0123456789012345678901234567890123456789 two words"] {
            fs::write(home.api_token(), bad).unwrap();
            assert!(Token::of(&home).is_err(), "{bad:?}");
        }
        fs::remove_file(home.api_token()).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), home.api_token()).unwrap();
        assert!(Token::of(&home).is_err());
        assert!(!folder.path().join("elsewhere").exists());
    }
}
