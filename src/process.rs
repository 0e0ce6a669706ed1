//! Child processes: started without a shell, watched, never left behind.
//!
//! Each child leads a process group of its own, gets SIGKILL from the kernel when this process dies, and its output is
//! always drained, so that a chatty child never blocks on a full pipe. The kernel's signal reaches the child alone, not
//! what the child started; those end with the service manager's control group.

use std::{
    fmt, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::{
    net::unix::pipe,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

mod ready;

mod notify;

mod capture;

mod read_back;

mod check;

mod incarnation;

mod memory;

mod usage;

mod secrets;

mod ports;

pub(crate) use capture::Heard;
use capture::{Capture, drain};
pub(crate) use check::{CheckError, check};
pub(crate) use incarnation::{holder_of, of_metrics, of_port, of_process};
pub(crate) use memory::oom_kills;
pub(crate) use ports::free_port;
pub(crate) use read_back::{ask, environment, shown, told};
pub(crate) use ready::{Readiness, ReadyError, Sign, Wanted, http_client};
pub(crate) use secrets::Secrets;
pub(crate) use usage::{Own, Usage, family, usage};

/// How much of a child's output is kept, in bytes, of stdout alone and of both together; the oldest goes first.
pub(crate) const CAPTURE_BYTES_MAX: usize = 256 * 1024;

/// How much of the output an error message quotes, in bytes.
const TAIL_BYTES_MAX: usize = 2 * 1024;

/// What a child inherits from this process; everything else, secrets above all, stays here.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// How long output is still awaited after the child is gone.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// How long SIGKILL may take; a process that is stuck in a driver may never end.
const KILL_MAX: Duration = Duration::from_secs(5);

/// How many children may wait to be started.
const STARTS_QUEUED_MAX: usize = 64;

/// What is to be started.
#[derive(Clone)]
pub(crate) struct Launch {
    /// Program and arguments; no shell sees them.
    pub(crate) argv: Vec<String>,
    /// Variables besides the inherited `PATH`, `HOME` and `LANG`.
    pub(crate) env: Vec<(String, String)>,
    /// How far the child yields the CPU to others, 0 to 19.
    pub(crate) nice: i32,
    /// What of its output must not be shown.
    pub(crate) secrets: Secrets,
    /// What becomes of what it leaves behind.
    pub(crate) remains: Remains,
}

/// What becomes of the processes that a child leaves behind in its group when it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// They are killed: they are nobody's.
    Killed,
    /// They stay: they are what the child was told to start.
    Left,
}

// Values of variables may be secrets, so they are not printed.
impl fmt::Debug for Launch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Launch").field("argv", &self.argv).field("nice", &self.nice).finish_non_exhaustive()
    }
}

/// A running child; dropping it kills its whole process group.
#[derive(Debug)]
pub(crate) struct Instance {
    group: Arc<Group>,
    gone: watch::Receiver<bool>,
    stdout: Capture,
    output: Capture,
    secrets: Secrets,
    readers: Vec<JoinHandle<()>>,
    /// What the kernel had killed for want of memory before it began.
    oom_kills: Option<u64>,
}

impl Instance {
    /// Starts `launch` and returns when the program runs; an error names the program.
    pub(crate) async fn spawn(launch: Launch) -> io::Result<Self> {
        Self::spawn_heard(launch, None).await
    }

    /// Starts `launch` as [`Instance::spawn`] does, and listens in what it prints for what is to be `heard`.
    pub(crate) async fn spawn_heard(launch: Launch, heard: Option<Heard>) -> io::Result<Self> {
        let Some(program) = launch.argv.first().cloned() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
        };
        let started = match spawn_on_thread(launch).await {
            Ok(instance) => instance.drained(heard.as_ref()),
            Err(error) => Err(error),
        };
        started.map_err(|error| io::Error::new(error.kind(), format!("cannot start {program:?}: {error}")))
    }

    fn drained(mut self, heard: Option<&Heard>) -> io::Result<Self> {
        let (stdout, stderr) = self.group.take_pipes();
        if let Some(pipe) = stdout {
            let captures = vec![self.stdout.clone(), self.output.clone()];
            self.readers.push(tokio::spawn(drain(
                pipe::Receiver::from_owned_fd(pipe.into())?,
                captures,
                heard.cloned(),
            )));
        }
        if let Some(pipe) = stderr {
            let captures = vec![self.output.clone()];
            self.readers.push(tokio::spawn(drain(
                pipe::Receiver::from_owned_fd(pipe.into())?,
                captures,
                heard.cloned(),
            )));
        }
        Ok(self)
    }

    /// Returns the process id, which is the id of its group as well.
    pub(crate) fn id(&self) -> u32 {
        self.group.id.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns how the child ended, or `None` while it runs. What it left behind in its group is killed, or stays if the
    /// launch says so.
    pub(crate) fn try_exit(&mut self) -> Option<ExitStatus> {
        self.group.ended()
    }

    /// Waits for the child to end by itself and for its last output. Dropping the future leaves the child as it is.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let status = loop {
            if let Some(status) = self.group.ended() {
                break status;
            }
            // The waiter sends before it goes, so that there is no child left to wait for when it is gone.
            let _ = self.gone.wait_for(|gone| *gone).await;
        };
        let drained = async {
            for reader in &mut self.readers {
                // A panic in a reader has cost output only.
                let _ = reader.await;
            }
        };
        // A grandchild that left the group may hold the pipe open for ever.
        if timeout(DRAIN_MAX, drained).await.is_err() {
            self.readers.iter().for_each(JoinHandle::abort);
        }
        self.readers.clear();
        status
    }

    /// Returns whether a child that ended like this did so for want of memory, of the machine or of a GPU.
    pub(crate) fn was_short_of_memory(&self, status: ExitStatus) -> bool {
        memory::was_short(status, &self.output.bytes(), (self.oom_kills, oom_kills()))
    }

    /// Ends the whole group, gracefully for as long as `within`, then by SIGKILL.
    ///
    /// Returns how the child ended, or `None` when not even SIGKILL ended it in five seconds.
    pub(crate) async fn stop(&mut self, within: Duration) -> Option<ExitStatus> {
        self.group.signal(Signal::TERM);
        if let Ok(status) = timeout(within, self.exited()).await {
            return Some(status);
        }
        self.group.signal(Signal::KILL);
        timeout(KILL_MAX, self.exited()).await.ok()
    }

    /// Returns the last output, stdout and stderr as they came, for an error message: on one line, at most two KiB, without
    /// what is secret and without what a terminal would obey.
    pub(crate) fn tail(&self) -> String {
        let bytes = self.output.bytes();
        self.secrets.hide_all_but_the_end(&bytes, bytes.len() >= CAPTURE_BYTES_MAX, TAIL_BYTES_MAX)
    }

    /// Returns what was printed to stdout so far, the last [`CAPTURE_BYTES_MAX`] bytes of it, as it was printed: to be read
    /// by a parser and shown to nobody.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.bytes()).into_owned()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

/// A child that leads its own process group.
#[derive(Debug)]
struct Group {
    id: Pid,
    remains: Remains,
    leader: Mutex<Leader>,
}

#[derive(Debug)]
struct Leader {
    child: Child,
    status: Option<ExitStatus>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        // Once the child was reaped, its id may belong to somebody else.
        if self.leader().status.is_none() {
            // It fails only when nobody is left in the group.
            let _ = rustix::process::kill_process_group(self.id, signal);
        }
    }

    fn ended(&self) -> Option<ExitStatus> {
        let mut leader = self.leader();
        if leader.status.is_none() && !matches!(self.wait(WaitIdOptions::NOHANG), Ok(None)) {
            if self.remains == Remains::Killed {
                // As long as the child is not reaped its group cannot be anybody else's, so the group goes first.
                let _ = rustix::process::kill_process_group(self.id, Signal::KILL);
            }
            // Nobody else reaps our children; if somebody did, how it ended is not known, and that is no success.
            leader.status = Some(leader.child.wait().unwrap_or(ExitStatus::from_raw(255 << 8)));
        }
        leader.status
    }

    /// Waits for the child to end without reaping it.
    fn wait(&self, options: WaitIdOptions) -> rustix::io::Result<Option<WaitIdStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | options;
        rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(self.id), options))
    }

    fn take_pipes(&self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        let child = &mut self.leader().child;
        (child.stdout.take(), child.stderr.take())
    }

    fn leader(&self) -> MutexGuard<'_, Leader> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts `launch` from a thread that lives as long as this process.
///
/// The kernel sends the parent's death signal when the *thread* that started the child ends, and the runtime's threads
/// may end before the process does.
async fn spawn_on_thread(launch: Launch) -> io::Result<Instance> {
    struct Job {
        launch: Launch,
        started: oneshot::Sender<io::Result<Instance>>,
    }
    static JOBS: OnceLock<mpsc::SyncSender<Job>> = OnceLock::new();

    let jobs = JOBS.get_or_init(|| {
        let (jobs, queue) = mpsc::sync_channel::<Job>(STARTS_QUEUED_MAX);
        let work = move || {
            for job in queue {
                // Whoever asked may be gone by now; dropping the instance then kills it.
                drop(job.started.send(start(&job.launch)));
            }
        };
        // When the thread cannot be had, its queue is gone and each spawn says so below.
        let _ = thread::Builder::new().name("spawner".to_owned()).spawn(work);
        jobs
    });
    let (started, answer) = oneshot::channel();
    jobs.try_send(Job { launch, started }).map_err(|error| match error {
        mpsc::TrySendError::Full(_) => io::Error::other("too many children are being started"),
        mpsc::TrySendError::Disconnected(_) => io::Error::other("the thread that starts children is gone"),
    })?;
    answer.await.map_err(|_| io::Error::other("the thread that starts children is gone"))?
}

fn start(launch: &Launch) -> io::Result<Instance> {
    let mut argv = launch.argv.iter();
    let mut command = Command::new(argv.next().map_or("", String::as_str));
    command.args(argv).env_clear();
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(launch.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    tie_to_parent(&mut command, launch.nice);
    let oom_kills = oom_kills();
    let child = command.spawn()?;
    let id = Pid::from_child(&child);
    let group = Arc::new(Group { id, remains: launch.remains, leader: Mutex::new(Leader { child, status: None }) });
    let (sender, gone) = watch::channel(false);
    let (stdout, output) = (Capture::default(), Capture::default());
    let (secrets, readers) = (launch.secrets.clone(), Vec::new());
    let instance = Instance { group: Arc::clone(&group), gone, stdout, output, secrets, readers, oom_kills };
    let waiter = move || {
        // An error means that somebody else reaped the child first.
        let _ = group.wait(WaitIdOptions::empty());
        group.ended();
        let _ = sender.send(true);
    };
    thread::Builder::new().name("waiter".to_owned()).spawn(waiter)?;
    Ok(instance)
}

#[allow(unsafe_code, reason = "what runs between fork and exec can be set in no other way")]
fn tie_to_parent(command: &mut Command, nice: i32) {
    let parent = rustix::process::getpid();
    // Whoever yields already, as a daemon may be told to, has children that yield at least as far.
    let nice = rustix::process::getpriority_process(None).map_or(nice, |own| nice.max(own));
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the line above will never be noticed.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::CHILD));
        }
        if nice != 0 {
            rustix::process::setpriority_process(None, nice)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes plain system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(tie) };
}

/// A placeholder that nothing is known for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{argument:?} names {{{placeholder}}}, which is none of {known}")]
pub(crate) struct UnknownPlaceholder {
    argument: String,
    placeholder: String,
    known: String,
}

/// Returns `argv` with each `{name}` of `values` replaced by its value; what is put in is not looked at again.
///
/// A placeholder is made of lowercase letters and underscores; any other brace, as of JSON, stands for itself.
pub(crate) fn fill(argv: &[String], values: &[(&str, &str)]) -> Result<Vec<String>, UnknownPlaceholder> {
    argv.iter().map(|argument| fill_one(argument, values)).collect()
}

fn fill_one(argument: &str, values: &[(&str, &str)]) -> Result<String, UnknownPlaceholder> {
    let mut filled = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.split_once('}').map_or("", |(name, _)| name);
        if name.is_empty() || !name.bytes().all(|each| each.is_ascii_lowercase() || each == b'_') {
            filled.push('{');
            rest = after;
            continue;
        }
        let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
            let known: Vec<String> = values.iter().map(|(known, _)| format!("{{{known}}}")).collect();
            return Err(UnknownPlaceholder {
                argument: argument.to_owned(),
                placeholder: name.to_owned(),
                known: known.join(", "),
            });
        };
        filled.push_str(value);
        rest = &after[name.len() + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path, time::Instant};

    use tokio::time::sleep;

    use super::*;

    fn launch(argv: &[&str]) -> Launch {
        let argv = argv.iter().map(|each| (*each).to_owned()).collect();
        Launch { argv, env: Vec::new(), nice: 0, secrets: Secrets::of([]), remains: Remains::Killed }
    }

    async fn run(argv: &[&str]) -> (Instance, ExitStatus) {
        let mut instance = Instance::spawn(launch(argv)).await.unwrap();
        let status = timeout(Duration::from_secs(20), instance.exited()).await.unwrap();
        (instance, status)
    }

    fn is_running(id: u32) -> bool {
        // A zombie is not running, though it still has a directory under /proc.
        std::fs::read_to_string(format!("/proc/{id}/stat"))
            .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
    }

    async fn eventually(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(300);
        while !condition() {
            assert!(Instant::now() < deadline, "the condition did not come true");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_child_sees_path_home_lang_and_what_it_was_given_and_nothing_else() {
        let mut launch = launch(&["env"]);
        launch.env.push(("LAB_SLOTS".to_owned(), "4".to_owned()));
        let mut instance = Instance::spawn(launch).await.unwrap();
        assert!(instance.exited().await.success());
        let output = instance.stdout();
        let names: Vec<&str> = output.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(names.contains(&"LAB_SLOTS"), "{names:?}");
        assert!(names.iter().all(|name| INHERITED.contains(name) || *name == "LAB_SLOTS"), "{names:?}");
    }

    #[tokio::test]
    async fn what_a_child_leaves_behind_is_killed_or_stays_as_the_launch_says() {
        for (remains, stays) in [(Remains::Killed, false), (Remains::Left, true)] {
            let program = "BEGIN { system(\"sleep 300 >/dev/null 2>&1 &\") }";
            let mut instance = Instance::spawn(Launch { remains, ..launch(&["awk", program]) }).await.unwrap();
            assert!(instance.exited().await.success());
            let group = instance.group.id;
            drop(instance);
            let is_there = || rustix::process::test_kill_process_group(group).is_ok();
            if stays {
                assert!(is_there(), "what a restart command has started was killed");
                rustix::process::kill_process_group(group, Signal::KILL).unwrap();
            }
            eventually(|| !is_there()).await;
        }
    }

    #[tokio::test]
    async fn what_a_chatty_child_said_last_is_kept_and_the_rest_is_dropped() {
        let (instance, status) = run(&["seq", "1", "200000"]).await;
        assert!(status.success(), "{status}");
        assert_eq!(instance.stdout().len(), CAPTURE_BYTES_MAX);
        assert!(instance.tail().ends_with("199999 | 200000"), "{}", instance.tail());
        assert!(instance.tail().len() <= TAIL_BYTES_MAX);
    }

    #[tokio::test]
    async fn stderr_is_in_the_tail_and_not_in_stdout() {
        let (instance, status) = run(&["ls", "/there/is/no/such/folder"]).await;
        assert!(!status.success());
        assert_eq!(instance.stdout(), "");
        assert!(instance.tail().contains("/there/is/no/such/folder"), "{}", instance.tail());
    }

    #[tokio::test]
    async fn the_last_words_of_a_child_hold_no_secret_and_nothing_that_a_terminal_obeys() {
        let words = "bad key hunter22-hunter22\u{1b}[2J\nbye\n";
        let secrets = Secrets::of(["hunter22-hunter22".to_owned()]);
        let mut instance = Instance::spawn(Launch { secrets, ..launch(&["printf", "%s", words]) }).await.unwrap();
        instance.exited().await;
        assert_eq!(instance.tail(), "bad key ***\\u{1b}[2J | bye");
        assert_eq!(instance.stdout(), words);
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_named_in_the_error() {
        let error = Instance::spawn(launch(&["/no/such/program"])).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        assert!(Instance::spawn(launch(&[])).await.is_err());
    }

    #[tokio::test]
    async fn stopping_ends_the_whole_group_also_members_that_ignore_sigterm() {
        // `env` becomes `sleep`, which ignores SIGTERM here; `timeout` would wait for it for ever.
        let argv = ["timeout", "--foreground", "300", "env", "--ignore-signal=TERM", "sleep", "300"];
        let mut instance = Instance::spawn(launch(&argv)).await.unwrap();
        let parent = instance.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        let child = || std::fs::read_to_string(&children).ok()?.trim().parse::<u32>().ok();
        let command = |id: u32| std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        eventually(|| child().is_some_and(|id| command(id).starts_with("sleep"))).await;
        let child = child().unwrap();
        let status = instance.stop(Duration::from_millis(200)).await;
        assert!(status.is_some());
        assert!(!is_running(parent));
        eventually(|| !is_running(child)).await;
    }

    #[tokio::test]
    async fn a_child_that_is_dropped_is_killed_and_reaped() {
        let instance = Instance::spawn(launch(&["sleep", "300"])).await.unwrap();
        let id = instance.id();
        assert!(is_running(id));
        drop(instance);
        eventually(|| !Path::new(&format!("/proc/{id}")).exists()).await;
    }

    #[tokio::test]
    async fn a_child_yields_the_cpu_as_far_as_it_was_told() {
        let mut instance = Instance::spawn(Launch { nice: 7, ..launch(&["nice"]) }).await.unwrap();
        instance.exited().await;
        let own = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(instance.stdout().trim(), 7.max(own).to_string());
    }

    #[tokio::test]
    async fn a_running_child_has_no_exit_and_an_ended_one_keeps_its_own() {
        let mut instance = Instance::spawn(launch(&["sleep", "300"])).await.unwrap();
        assert_eq!(instance.try_exit(), None);
        let status = instance.stop(Duration::from_secs(10)).await;
        assert!(status.is_some());
        assert_eq!(instance.try_exit(), status);
    }

    #[tokio::test]
    async fn a_child_dies_with_its_parent_also_by_sigkill() {
        // The test plays both parts: it starts itself again as the parent that will be killed.
        const AS_PARENT: &str = "KLOROS_TEST_AS_PARENT";
        if std::env::var_os(AS_PARENT).is_some() {
            let child = Instance::spawn(launch(&["sleep", "300"])).await.unwrap();
            let told = format!("child={};", child.id());
            // Written past the test's own capture of output.
            io::stdout().write_all(told.as_bytes()).unwrap();
            io::stdout().flush().unwrap();
            return std::future::pending().await;
        }
        let this = std::env::current_exe().unwrap();
        let name = "process::tests::a_child_dies_with_its_parent_also_by_sigkill";
        let argv = [this.to_str().unwrap(), "--exact", name, "--nocapture"];
        let env = vec![(AS_PARENT.to_owned(), "1".to_owned())];
        let mut parent = Instance::spawn(Launch { env, ..launch(&argv) }).await.unwrap();
        let told = |output: &str| Some(output.split_once("child=")?.1.split_once(';')?.0.parse::<u32>().unwrap());
        eventually(|| told(&parent.stdout()).is_some()).await;
        let child = told(&parent.stdout()).unwrap();
        assert!(is_running(child));
        // The child leads a group of its own, so this reaches the parent alone.
        parent.group.signal(Signal::KILL);
        parent.exited().await;
        eventually(|| !is_running(child)).await;
    }

    #[test]
    fn ports_that_were_handed_out_are_not_handed_out_again_at_once() {
        let ports: std::collections::BTreeSet<u16> = (0..32).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 32);
        assert!(!ports.contains(&0));
    }

    #[test]
    fn placeholders_are_replaced_once_and_other_braces_stay() {
        check(&["--port", "{port}"], Ok(&["--port", "8080"]));
        check(&["a{port}b{env_file}c"], Ok(&["a8080b{port}c"]));
        check(&[r#"{"json": {}}"#, "{", "}{", "{port"], Ok(&[r#"{"json": {}}"#, "{", "}{", "{port"]));
        check(&["{model}"], Err(r#""{model}" names {model}, which is none of {port}, {env_file}"#));
    }

    #[track_caller]
    fn check(argv: &[&str], expected: Result<&[&str], &str>) {
        let argv: Vec<String> = argv.iter().map(|each| (*each).to_owned()).collect();
        // A value that looks like a placeholder is not filled in turn.
        let filled = fill(&argv, &[("port", "8080"), ("env_file", "{port}")]);
        match expected {
            Ok(expected) => assert_eq!(filled.unwrap(), expected),
            Err(message) => assert_eq!(filled.unwrap_err().to_string(), message),
        }
    }
}
