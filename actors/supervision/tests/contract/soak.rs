//! Restarts children many times, and looks at what is left behind.

use std::time::Duration;

use kloros_supervision::{Backoff, ChildSpec, Intensity, Nursery, Socket, Strategy, TreeSpec, start};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::runtime::Handle;

/// Lives until it is told to fail.
struct Mayfly;

/// Tells a mayfly to fail.
struct Fall;

impl Actor for Mayfly {
    type Msg = Fall;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Fall>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Fall>, Fall: Fall, (): &mut ()) -> Result<(), ActorProcessingErr> {
        Err("it fell".into())
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holdings {
    resident: usize,
    files: usize,
    tasks: usize,
    names: usize,
}

impl Holdings {
    fn now() -> Self {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        Holdings {
            resident: pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096,
            files: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            tasks: Handle::current().metrics().num_alive_tasks(),
            names: ractor::registry::registered().len(),
        }
    }
}

/// What was held when the tree was up for a while, and after all the restarts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Soaked {
    pub(crate) before: Holdings,
    pub(crate) after: Holdings,
    tasks_at_rest: (usize, usize),
}

impl Soaked {
    /// Returns what is held beyond what was held before, if it is more than noise.
    pub(crate) fn left_behind(&self) -> Option<String> {
        let grown = self.after.resident.saturating_sub(self.before.resident);
        // The process does nothing else. What an allocator keeps back is no more than this, however many the restarts; what
        // grows by half a kilobyte with each of ten thousand is.
        let bounded = grown < 4 << 20 && self.after.files <= self.before.files;
        let settled = self.after.tasks <= self.before.tasks && self.tasks_at_rest.0 == self.tasks_at_rest.1;
        let same = bounded && settled && self.after.names == self.before.names;
        (!same).then(|| format!("{self:?}"))
    }
}

/// Lets `children` fail in turn until there were so many restarts, and stops them.
pub(crate) async fn soak(restarts: u64, children: usize) -> Soaked {
    let at_first = Handle::current().metrics().num_alive_tasks();
    let nursery = Nursery::new("mayflies");
    let backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO, ..Backoff::default() };
    let intensity = Intensity { restarts_max: u32::MAX, within: Duration::from_secs(1) };
    let spec = TreeSpec::new("house", Strategy::OneForOne).intensity(intensity).dynamic("mayflies", &nursery);
    let tree = start(spec).await.unwrap();
    let sockets: Vec<Socket<Fall>> = (0..children).map(|number| Socket::new(&number.to_string())).collect();
    for socket in &sockets {
        let spec = ChildSpec::actor(socket.id(), socket, || (Mayfly, ()));
        nursery.start_child(spec.backoff(backoff).failures_max(u32::MAX)).await.unwrap();
    }
    let done = |least: u64| {
        let children = nursery.children();
        children.len() == sockets.len() && children.iter().map(|child| child.restarts).sum::<u64>() >= least
    };
    let mut before = None;
    let (warm, mut asked) = (restarts / 3, 0);
    loop {
        for socket in &sockets {
            // One that is down at the moment falls by itself.
            asked += u64::from(socket.send(Fall).is_ok());
        }
        while sockets.iter().any(|socket| socket.actor().is_none()) || !done(asked) {
            tokio::task::yield_now().await;
        }
        if before.is_none() && asked >= warm {
            before = Some(settled(at_first, &sockets).await);
        }
        if asked >= restarts {
            break;
        }
    }
    let after = settled(at_first, &sockets).await;
    tree.stop(Duration::from_secs(60)).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let alive = || Handle::current().metrics().num_alive_tasks();
    while alive() > at_first && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Soaked { before: before.unwrap_or(after), after, tasks_at_rest: (at_first, alive()) }
}

/// Returns what is held once every child has an actor and a task that attends it, and no more.
async fn settled(at_first: usize, sockets: &[Socket<Fall>]) -> Holdings {
    // The two supervisors have the same, but for the root, which is waited for by the tree; and a timer may be on its way out.
    let least = at_first + 2 * (sockets.len() + 2);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while Handle::current().metrics().num_alive_tasks() > least && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Holdings::now()
}
