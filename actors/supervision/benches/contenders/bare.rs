//! ractor alone, with the smallest supervisor that can be written: it starts again whoever failed, and keeps no books.

use std::sync::{Arc, Mutex, PoisonError};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{Reporter, Work, Worker};

type Places = Arc<Mutex<Vec<ActorRef<Work>>>>;

pub(super) struct World {
    supervisor: ActorRef<()>,
    places: Places,
}

struct Supervisor {
    reporter: Reporter,
    places: Places,
}

impl Supervisor {
    async fn start(&self, myself: &ActorRef<()>) -> Result<ActorRef<Work>, ActorProcessingErr> {
        let (worker, _) = Actor::spawn_linked(None, Worker(self.reporter.clone()), (), myself.get_cell()).await?;
        Ok(worker)
    }
}

impl Actor for Supervisor {
    type Msg = ();
    type State = std::collections::HashMap<ActorId, usize>;
    type Arguments = usize;

    async fn pre_start(&self, myself: ActorRef<()>, workers: usize) -> Result<Self::State, ActorProcessingErr> {
        let mut places = Self::State::new();
        for place in 0..workers {
            let worker = self.start(&myself).await?;
            places.insert(worker.get_id(), place);
            self.places.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
        Ok(places)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        places: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(failed, _) = event
            && let Some(place) = places.remove(&failed.get_id())
        {
            let worker = self.start(&myself).await?;
            places.insert(worker.get_id(), place);
            self.places.lock().unwrap_or_else(PoisonError::into_inner)[place] = worker;
        }
        Ok(())
    }
}

impl super::World for World {
    type Address = ActorRef<Work>;

    async fn build(workers: usize, reporter: Reporter) -> Self {
        let places = Places::default();
        let supervisor = Supervisor { reporter, places: Arc::clone(&places) };
        let (supervisor, _) = Actor::spawn(None, supervisor, workers).await.expect("workers start");
        World { supervisor, places }
    }

    fn address(&self, worker: usize) -> ActorRef<Work> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)[worker].clone()
    }

    fn send(address: &ActorRef<Work>, work: Work) -> bool {
        address.send_message(work).is_ok()
    }

    async fn stop(self) {
        self.supervisor.stop(None);
        self.supervisor.wait(None).await.expect("the supervisor stops");
    }
}
