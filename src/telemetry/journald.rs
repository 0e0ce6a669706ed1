//! The log as journald keeps it: each record with its fields by name, so that `journalctl KLOROS_DOMAIN=chat` finds what is about
//! that domain. The fields stand in the message as well, for whoever just reads.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
    path::Path,
    time::Duration,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a record waits for journald.
const SEND_WITHIN: Duration = Duration::from_secs(1);

/// The longest value of a field, in bytes: a whole record fits into one datagram.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// The longest name of a field that journald takes, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Sends each record to journald.
pub(super) struct Journald(UnixDatagram);

impl Journald {
    /// Returns the way to journald where it reads this process' stderr; `None` where somebody else does, as a terminal or a file.
    pub(super) fn here() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = rustix::fs::fstat(io::stderr()).ok()?;
        (stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)).then(|| Self::at(Path::new(SOCKET)).ok()).flatten()
    }

    fn at(socket: &Path) -> io::Result<Self> {
        let datagrams = UnixDatagram::unbound()?;
        datagrams.connect(socket)?;
        datagrams.set_write_timeout(Some(SEND_WITHIN))?;
        Ok(Self(datagrams))
    }
}

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        if self.0.send(&said.record(*event.metadata().level(), event.metadata().target())).is_err() {
            // journald reads that, too, and nothing else is left to say it to.
            writeln!(io::stderr(), "{}", said.message()).ok();
        }
    }
}

/// What one record says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

impl Said {
    fn take(&mut self, field: &Field, mut value: String) {
        let end = (0..=VALUE_BYTES_MAX.min(value.len())).rev().find(|at| value.is_char_boundary(*at));
        value.truncate(end.unwrap_or_default());
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push((name, value)),
        }
    }

    /// Returns the message with the fields behind it.
    fn message(&self) -> String {
        let mut message = self.message.clone();
        for (name, value) in &self.fields {
            // Writing into a text does not fail.
            write!(message, " {name}={value}").ok();
        }
        message
    }

    /// Returns the record in journald's own protocol.
    fn record(&self, level: Level, target: &str) -> Vec<u8> {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let mut record = Vec::new();
        put(&mut record, "MESSAGE", &self.message());
        put(&mut record, "PRIORITY", priority);
        put(&mut record, "SYSLOG_IDENTIFIER", "kloros");
        put(&mut record, "KLOROS_TARGET", target);
        for (name, value) in &self.fields {
            put(&mut record, &spelled(name), value);
        }
        record
    }
}

/// Returns the name of a field as journald takes it.
fn spelled(name: &str) -> String {
    let plain = |each: char| if each.is_ascii_alphanumeric() { each.to_ascii_uppercase() } else { '_' };
    let mut spelled: String = "KLOROS_".chars().chain(name.chars().map(plain)).collect();
    spelled.truncate(NAME_BYTES_MAX);
    spelled
}

/// Adds a field. A value of several lines goes with its length: nothing that is said can pretend to be a field.
fn put(record: &mut Vec<u8>, name: &str, value: &str) {
    record.extend(name.as_bytes());
    if value.contains('\n') {
        record.push(b'\n');
        record.extend((value.len() as u64).to_le_bytes());
    } else {
        record.push(b'=');
    }
    record.extend(value.as_bytes());
    record.push(b'\n');
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn heard(say: impl FnOnce()) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let journald = UnixDatagram::bind(&socket).unwrap();
        journald.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journald::at(&socket).unwrap());
        tracing::subscriber::with_default(subscriber, say);
        let mut record = vec![0; 64 * 1024];
        let length = journald.recv(&mut record).unwrap();
        record.truncate(length);
        record
    }

    #[test]
    fn a_record_is_kept_with_its_fields_by_name_and_reads_with_them() {
        let record =
            heard(|| tracing::warn!(domain = "chat", ratio = 0.5, deployment = %"d-1", "deployment rolled back"));
        let record = String::from_utf8(record).unwrap();
        let lines: Vec<&str> = record.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "MESSAGE=deployment rolled back domain=chat ratio=0.5 deployment=d-1",
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=kloros",
            ]
        );
        assert_eq!(lines[4..], ["KLOROS_DOMAIN=chat", "KLOROS_RATIO=0.5", "KLOROS_DEPLOYMENT=d-1"]);
    }

    #[test]
    fn what_is_said_in_several_lines_is_no_field_of_its_own() {
        let record = heard(|| tracing::error!(why = "no\nPRIORITY=0", "x"));
        let value = b"KLOROS_WHY\n\x0d\0\0\0\0\0\0\0no\nPRIORITY=0\n";
        assert!(record.ends_with(value), "{}", String::from_utf8_lossy(&record));
        let long = heard(|| tracing::error!(why = "\u{e9}".repeat(40_000), "x"));
        assert!(long.len() < 3 * VALUE_BYTES_MAX && long.starts_with(b"MESSAGE=x why="));
    }

    #[test]
    fn no_name_of_a_field_is_one_that_journald_refuses() {
        assert_eq!(spelled("otel.name"), "KLOROS_OTEL_NAME");
        assert_eq!(spelled(&"a".repeat(100)).len(), NAME_BYTES_MAX);
    }
}
