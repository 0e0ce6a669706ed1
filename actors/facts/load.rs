//! What an instance of a service takes of the machine, and what the machine has: cores, memory, memory of a GPU.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// So much of each resource; what is not said, or cannot be told, is absent. In a domain file, what one instance needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// CPU cores that are busy all the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// Memory, in mebibytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<f64>,
    /// Memory of one GPU, in mebibytes: of a service that spreads over several, on the one of which it takes most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_mib: Option<f64>,
}

/// A resource of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// CPU cores. They give way: who has fewer is slower.
    Cores,
    /// Memory. It does not give way: who has too little is killed.
    Memory,
    /// Memory of one GPU.
    GpuMemory,
}

impl Resource {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Cores, Self::Memory, Self::GpuMemory];

    /// Returns `amount` of it in words, with its unit.
    pub fn amount(self, amount: f64) -> String {
        match self {
            Self::Cores => format!("{amount:.1} cores"),
            Self::Memory => format!("{amount:.0} MiB of memory"),
            Self::GpuMemory => format!("{amount:.0} MiB of memory of one GPU"),
        }
    }
}

impl Load {
    /// Returns how much of a resource it is; `None` where that is not said.
    pub fn of(&self, resource: Resource) -> Option<f64> {
        match resource {
            Resource::Cores => self.cores,
            Resource::Memory => self.memory_mib,
            Resource::GpuMemory => self.gpu_memory_mib,
        }
    }

    /// Returns the load of which there is so much of each resource as `amount` says.
    pub fn each(amount: impl Fn(Resource) -> Option<f64>) -> Self {
        Self {
            cores: amount(Resource::Cores),
            memory_mib: amount(Resource::Memory),
            gpu_memory_mib: amount(Resource::GpuMemory),
        }
    }
}

/// What the machine has room for, as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Room {
    /// What it has in all; of memory, what the control group around this process may have.
    pub all: Load,
    /// What nobody uses of it.
    pub left: Load,
    /// What the serving instance of each domain uses of it; absent where it does not run.
    pub live: BTreeMap<String, Load>,
}
