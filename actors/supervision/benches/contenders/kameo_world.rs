//! kameo with its own supervision; its references and mailboxes outlive a restart.

use std::time::Duration;

use kameo::{
    actor::{Actor, ActorRef, Spawn},
    error::Infallible,
    mailbox,
    message::{Context, Message},
};

use super::{Reporter, Work, work};

pub(super) struct World {
    supervisor: ActorRef<Supervisor>,
    workers: Vec<ActorRef<Worker>>,
}

pub(crate) struct Worker(Reporter);

impl Actor for Worker {
    type Args = Reporter;
    type Error = Infallible;

    async fn on_start(reporter: Reporter, myself: ActorRef<Self>) -> Result<Self, Infallible> {
        myself.tell(Work::First).try_send().ok();
        Ok(Worker(reporter))
    }
}

impl Message<Work> for Worker {
    type Reply = ();

    async fn handle(&mut self, message: Work, _: &mut Context<Self, ()>) {
        work(&self.0, message);
    }
}

struct Supervisor;

impl Actor for Supervisor {
    type Args = ();
    type Error = Infallible;

    async fn on_start((): (), _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Supervisor)
    }
}

impl super::World for World {
    type Address = ActorRef<Worker>;

    async fn build(count: usize, reporter: Reporter) -> Self {
        let supervisor = Supervisor::spawn(());
        let mut workers = Vec::with_capacity(count);
        for _ in 0..count {
            let spec =
                Worker::supervise(&supervisor, reporter.clone()).restart_limit(u32::MAX, Duration::from_millis(100));
            workers.push(spec.spawn_with_mailbox(mailbox::unbounded()).await);
        }
        World { supervisor, workers }
    }

    fn address(&self, worker: usize) -> ActorRef<Worker> {
        self.workers[worker].clone()
    }

    fn send(address: &ActorRef<Worker>, work: Work) -> bool {
        address.tell(work).try_send().is_ok()
    }

    async fn stop(self) {
        self.supervisor.stop_gracefully().await.ok();
        self.supervisor.wait_for_shutdown().await;
    }
}
