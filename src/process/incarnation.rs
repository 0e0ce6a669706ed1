//! Which run of a service is on: another one after each start, whoever started it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read},
    os::unix::fs::MetadataExt,
};

use super::read_back::body;

/// The reading under which Prometheus' client libraries say since when a process runs.
const START_TIME: &str = "process_start_time_seconds";

/// The state of a TCP socket that listens, as the kernel's table spells it.
const LISTENS: &str = "0A";

/// The length of a line of that table, in bytes.
const TABLE_LINE_BYTES: usize = 150;

/// Returns which run of the process `pid` is on: its id and when it was started, as the kernel counts. An id alone may
/// come again.
pub(crate) fn of_process(pid: u32) -> io::Result<String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path)?;
    let ticks = start_ticks(&stat).ok_or_else(|| io::Error::other(format!("{path} has no start time")))?;
    Ok(format!("process {pid} started at tick {ticks}"))
}

/// Returns which run of whatever listens on this loopback port is on; `None` where that cannot be told: a process of
/// another user, in another container, or none at all. Blocks on the kernel's tables.
pub(crate) fn of_port(port: u16) -> Option<String> {
    of_process(holder_of(port)?).ok()
}

/// Returns the process that listens on this loopback port, as far as that can be told. Blocks on the kernel's tables.
pub(crate) fn holder_of(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|path| fs::File::open(path).ok());
    let inodes: Vec<u64> = tables.flat_map(|table| listeners(table, port)).collect();
    let holders = processes().filter(|pid| holds_one_of(*pid, &inodes));
    // A server with workers shares its socket with them, and they come and go: the oldest is the one that was started. The
    // first process of all may have opened the socket for it.
    let oldest = holders.filter(|pid| *pid != 1).filter_map(|pid| Some((ticks_of(pid)?, pid))).min()?;
    Some(oldest.1)
}

/// Returns since when the process runs whose metrics `url` answers with, if it says so.
pub(crate) async fn of_metrics(url: &str) -> Option<String> {
    let body = body(url).await.ok()?;
    let value = start_time(&String::from_utf8_lossy(&body))?;
    Some(format!("started at {value}"))
}

fn start_time(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(START_TIME))?;
    line.split_whitespace().next()?.parse().ok().filter(|value: &f64| value.is_finite())
}

fn start_ticks(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses, which may hold anything; the start time is the 22nd.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn ticks_of(pid: u32) -> Option<u64> {
    start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds_one_of(pid: u32, inodes: &[u64]) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
    files.filter_map(|file| fs::metadata(file.path()).ok()).any(|file| inodes.contains(&file.ino()) && is_socket(&file))
}

fn is_socket(file: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&file.file_type())
}

/// Returns the inodes of the sockets that listen on `port`, according to the kernel's table.
///
/// Those that listen come first, and the table is read line by line up to the others: for each of those the kernel looks through
/// all buckets of a large hash.
fn listeners(table: impl Read, port: u16) -> Vec<u64> {
    let ending = format!(":{port:04X}");
    let lines = BufReader::with_capacity(TABLE_LINE_BYTES, table).lines().map_while(Result::ok).skip(1);
    let fields = lines.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let listening = fields.take_while(|fields| fields.get(3).is_some_and(|state| state == LISTENS));
    let ours = listening.filter(|fields| fields[1].ends_with(&ending));
    ours.filter_map(|fields| fields.get(9)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_the_same_id() {
        assert_eq!(start_ticks("7 (a (b) c) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9"), Some(4711));
        assert_eq!(start_ticks("7 (torn"), None);
        let own = std::process::id();
        assert_eq!(of_process(own).unwrap(), of_process(own).unwrap());
        assert_ne!(of_process(own).unwrap(), of_process(1).unwrap());
        assert!(of_process(0).is_err());
    }

    #[test]
    fn whoever_listens_on_a_port_is_found_and_a_silent_port_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = of_port(port).unwrap();
        assert!(found.starts_with("process "), "{found}");
        assert_eq!(of_port(port), Some(found));
        drop(listener);
        assert_eq!(of_port(port), None);
    }

    #[test]
    fn of_the_kernels_table_only_those_who_listen_are_read() {
        let row = |port: &str, state: &str, inode: u32| {
            format!(
                "   0: 0100007F:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"
            )
        };
        let table =
            ["  sl  local_address\n", &row("1F90", "0A", 7), &row("1F91", "0A", 8), &row("1F90", "01", 9)].concat();
        assert_eq!(listeners(table.as_bytes(), 0x1F90), [7]);
        assert_eq!(listeners(table.as_bytes(), 0x1F91), [8]);
        for torn in ["", "x", "  sl\n   0:\n", &table[..40]] {
            assert_eq!(listeners(torn.as_bytes(), 0x1F90), [0; 0]);
        }
    }

    #[test]
    fn since_when_a_process_runs_is_read_from_its_metrics() {
        let text = "# HELP process_start_time_seconds Start.\n# TYPE process_start_time_seconds gauge\n\
                    process_start_time_seconds 1732580000.25\n";
        assert_eq!(start_time(text), Some(1_732_580_000.25));
        assert_eq!(start_time("process_start_time_seconds NaN\n"), None);
        assert_eq!(start_time("up 1\n"), None);
    }
}
