//! This crate: one static supervisor, each worker behind an outlet.

use std::time::Duration;

use kloros_supervision::{Backoff, ChildSpec, Intensity, Outlet, Socket, Strategy, Tree, TreeSpec, start};

use super::{Reporter, Work, Worker};

/// As many as a cast sends, so that the bound is counted and never met.
const IN_FLIGHT_MAX: usize = 1 << 20;

const ANY_NUMBER: Intensity = Intensity { restarts_max: u32::MAX, within: Duration::from_millis(100) };

const AT_ONCE: Backoff =
    Backoff { first: Duration::ZERO, max: Duration::ZERO, jitter_ratio: 0.0, healthy_after: Duration::from_secs(60) };

pub(super) struct World {
    tree: Tree,
    workers: Vec<Outlet<Work>>,
}

impl super::World for World {
    type Address = Outlet<Work>;

    async fn build(workers: usize, reporter: Reporter) -> Self {
        let mut spec = TreeSpec::new("world", Strategy::OneForOne).intensity(ANY_NUMBER);
        let mut outlets = Vec::with_capacity(workers);
        for worker in 0..workers {
            let id = worker.to_string();
            let socket = Socket::bounded(&id, IN_FLIGHT_MAX);
            outlets.push(socket.outlet(std::convert::identity));
            let reporter = reporter.clone();
            let child = ChildSpec::actor(&id, &socket, move || (Worker(reporter.clone()), ()));
            spec = spec.child(child.backoff(AT_ONCE).failures_max(u32::MAX));
        }
        let tree = start(spec).await.expect("workers start");
        World { tree, workers: outlets }
    }

    fn address(&self, worker: usize) -> Outlet<Work> {
        self.workers[worker].clone()
    }

    fn send(address: &Outlet<Work>, work: Work) -> bool {
        address.send(work).is_ok()
    }

    async fn stop(self) {
        self.tree.stop(Duration::from_secs(10)).await.expect("workers stop");
    }
}
