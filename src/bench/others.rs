//! The load that others put on the machine while something is measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kloros_actors::{
    facts::Others,
    seams::{GpuUser, GpuUsers, ProbeError},
};
use tokio::{task::spawn_blocking, time::sleep};

use crate::process::{Own, Usage, family, usage};

/// How often it is looked who uses the GPUs.
const GPU_INTERVAL: Duration = Duration::from_secs(1);

/// Watches what others do while the process `root` is measured.
pub(super) struct Watch {
    root: u32,
    own: Own,
    began: Option<Usage>,
    gpus: Arc<dyn GpuUsers>,
    seen: Seen,
}

impl Watch {
    /// Begins to watch. `own` says what of this process belongs to what measures.
    pub(super) async fn begin(root: u32, own: Own, gpus: Arc<dyn GpuUsers>) -> Self {
        Self { root, own, began: counts(root, own).await, gpus, seen: Seen::default() }
    }

    /// Watches until `measuring` has ended, and returns with it what was seen.
    pub(super) async fn during<T>(mut self, measuring: impl Future<Output = T>) -> (T, Others) {
        let ended = tokio::select! {
            ended = measuring => ended,
            never = self.look() => match never {},
        };
        let now = counts(self.root, self.own).await;
        let cpu = self.began.zip(now).and_then(|(began, now)| now.of_others_since(&began));
        (ended, Others { cpu, ..self.seen.others() })
    }

    /// Looks who uses the GPUs, again and again.
    async fn look(&mut self) -> std::convert::Infallible {
        loop {
            match self.gpus.users().await {
                Ok(users) => {
                    let root = self.root;
                    let ours = spawn_blocking(move || family(root)).await.unwrap_or_default();
                    self.seen.add(&users, &ours);
                }
                // There is nothing to be seen, now and later.
                Err(ProbeError::Absent(_)) => return std::future::pending().await,
                Err(ProbeError::Unreachable(why)) => tracing::debug!(why, "it cannot be told who uses the GPUs"),
            }
            sleep(GPU_INTERVAL).await;
        }
    }
}

async fn counts(root: u32, own: Own) -> Option<Usage> {
    spawn_blocking(move || usage(root, own)).await.ok().flatten()
}

/// What was seen of the GPUs: how often it was looked, and of each what others used of it.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    looks: u32,
    /// The shares of time of all looks together.
    busy: BTreeMap<String, f64>,
    /// Whether anybody's time could be told.
    tells_busy: bool,
    /// The largest share of memory.
    memory: BTreeMap<String, f64>,
}

impl Seen {
    fn add(&mut self, users: &[GpuUser], ours: &BTreeSet<u32>) {
        self.looks += 1;
        self.tells_busy |= users.is_empty() || users.iter().any(|user| user.busy.is_some());
        let mut memory: BTreeMap<&str, f64> = BTreeMap::new();
        for user in users.iter().filter(|user| !ours.contains(&user.pid)) {
            *self.busy.entry(user.gpu.clone()).or_default() += user.busy.unwrap_or_default();
            *memory.entry(&user.gpu).or_default() += user.memory;
        }
        for (gpu, share) in memory {
            let most = self.memory.entry(gpu.to_owned()).or_default();
            *most = most.max(share);
        }
    }

    /// Returns what others used of the GPU that they used most: of its time on average over the looks, of its memory at most.
    fn others(&self) -> Others {
        let most = |shares: &BTreeMap<String, f64>| shares.values().copied().fold(0.0, f64::max);
        let looked = self.looks > 0;
        let gpu = (looked && self.tells_busy).then(|| (most(&self.busy) / f64::from(self.looks)).min(1.0));
        Others { cpu: None, gpu, gpu_memory: looked.then(|| most(&self.memory).min(1.0)) }
    }
}

/// Where nothing tells who uses the GPUs.
pub(super) struct NoGpus;

#[async_trait::async_trait]
impl GpuUsers for NoGpus {
    async fn users(&self) -> Result<Vec<GpuUser>, ProbeError> {
        Err(ProbeError::Absent("nobody was asked for GPUs".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(gpu: &str, pid: u32, busy: Option<f64>, memory: f64) -> GpuUser {
        GpuUser { gpu: gpu.to_owned(), pid, busy, memory }
    }

    #[test]
    fn of_the_gpus_the_one_that_others_use_most_counts_and_what_is_ours_does_not() {
        let (mut seen, ours) = (Seen::default(), BTreeSet::from([7]));
        assert_eq!(seen.others(), Others::default());
        seen.add(&[user("a", 7, Some(0.9), 0.8), user("a", 8, Some(0.2), 0.1), user("b", 9, Some(0.4), 0.05)], &ours);
        seen.add(&[user("a", 8, Some(0.1), 0.2), user("a", 10, None, 0.1)], &ours);
        let others = seen.others();
        assert!((others.gpu.unwrap() - 0.2).abs() < 1e-9, "{others:?}");
        assert!((others.gpu_memory.unwrap() - 0.3).abs() < 1e-9, "{others:?}");
    }

    #[test]
    fn a_gpu_that_nobody_uses_is_idle_and_one_that_does_not_tell_is_not_known() {
        let mut seen = Seen::default();
        seen.add(&[], &BTreeSet::new());
        assert_eq!(seen.others(), Others { cpu: None, gpu: Some(0.0), gpu_memory: Some(0.0) });
        let mut mute = Seen::default();
        mute.add(&[user("a", 8, None, 0.5)], &BTreeSet::new());
        assert_eq!(mute.others(), Others { cpu: None, gpu: None, gpu_memory: Some(0.5) });
    }
}
