//! How a child is treated, and what a supervisor allows: plain values, each with the default of OTP.

use std::time::Duration;

/// How long a child may take to stop before it is killed, unless its spec says otherwise.
pub const STOP_WITHIN_DEFAULT: Duration = Duration::from_secs(5);

/// How long a child's `pre_start` may take, unless its spec says otherwise.
pub const START_WITHIN_DEFAULT: Duration = Duration::from_secs(30);

/// How long supervision waits for a killed child before it gives the child up as leaked, unless its spec says otherwise.
pub const KILL_WITHIN_DEFAULT: Duration = Duration::from_secs(5);

/// How often in a row a child is started again, unless its spec says otherwise.
///
/// With the default back-off these are a quarter of an hour, which the restart intensity alone would never notice.
pub const FAILURES_MAX_DEFAULT: u32 = 32;

/// When a child that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// When it failed, panicked, was killed or stalled; not when it stopped.
    Transient,
    /// Never, not even when its siblings are restarted around it.
    Temporary,
}

/// How a child is brought down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Killed at once; its `post_stop` does not run.
    Brutal,
    /// Asked to stop, and killed when it takes longer than this, which is more than zero.
    Within(Duration),
    /// Asked to stop, and waited for as long as it takes.
    Unlimited,
}

/// Who is restarted along with a child that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// Every sibling.
    OneForAll,
    /// The siblings that were started after it.
    RestForOne,
}

/// Whether a supervisor ends by itself when its [significant](crate::ChildSpec::significant) children are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoShutdown {
    /// It does not.
    #[default]
    Never,
    /// As soon as one of them is done.
    Any,
    /// When the last of them is done.
    All,
}

/// How many restarts a supervisor allows itself before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts allowed inside one window, over all children together; 0 gives up at the first failure, `u32::MAX` never.
    pub restarts_max: u32,
    /// Length of the sliding window; more than zero.
    pub within: Duration,
}

impl Default for Intensity {
    /// One restart in 5 seconds, as in OTP.
    fn default() -> Self {
        Intensity { restarts_max: 1, within: Duration::from_secs(5) }
    }
}

/// How long supervision waits before it starts a failing child again.
///
/// The first restart is immediate. Each further one waits twice as long as the one before, spread by jitter, until the
/// child has been up for `healthy_after`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait before the second restart.
    pub first: Duration,
    /// The longest wait, before jitter.
    pub max: Duration,
    /// How far a wait is spread around its nominal length, as a ratio from 0 to 1.
    pub jitter_ratio: f64,
    /// How long a child must have been up for its failures to be forgotten; more than zero.
    pub healthy_after: Duration,
}

impl Default for Backoff {
    /// From 100 ms to 30 s, spread by a fifth, forgotten after a healthy minute.
    fn default() -> Self {
        Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_secs(30),
            jitter_ratio: 0.2,
            healthy_after: Duration::from_secs(60),
        }
    }
}

/// How a child is treated: its spec, with every default filled in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// When it is started again.
    pub restart: Restart,
    /// How it is brought down.
    pub shutdown: Shutdown,
    /// Whether its end counts for the supervisor's [`AutoShutdown`].
    pub significant: bool,
    /// How long a handler may make no progress; nothing is for ever.
    pub stall_after: Option<Duration>,
    /// How long its `pre_start` may take; nothing is for ever.
    pub start_within: Option<Duration>,
    /// How long a kill is waited for.
    pub kill_within: Duration,
    /// How often in a row it is started again.
    pub failures_max: u32,
    /// How long is waited between restarts.
    pub backoff: Backoff,
}

impl Rules {
    /// Returns the rules of a room unless its spec says otherwise.
    pub(crate) fn of_an_actor() -> Self {
        Rules {
            restart: Restart::Permanent,
            shutdown: Shutdown::Within(STOP_WITHIN_DEFAULT),
            significant: false,
            stall_after: None,
            start_within: Some(START_WITHIN_DEFAULT),
            kill_within: KILL_WITHIN_DEFAULT,
            failures_max: FAILURES_MAX_DEFAULT,
            backoff: Backoff::default(),
        }
    }

    /// Returns the rules of a supervisor below another one: it gets all the time that its own children need.
    pub(crate) fn of_a_supervisor() -> Self {
        Rules { shutdown: Shutdown::Unlimited, start_within: None, ..Rules::of_an_actor() }
    }
}

/// What holds for all children of one supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// Who is restarted along with a child that failed; nothing where children come and go independently of each other.
    pub strategy: Option<Strategy>,
    /// How many restarts are allowed.
    pub intensity: Intensity,
    /// Whether the supervisor ends by itself.
    pub auto_shutdown: AutoShutdown,
}
