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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// What an instance takes of the machine for each unit of a knob, beside what its domain needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerUnit {
    /// Memory, in mebibytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<f64>,
    /// Memory of one GPU, in mebibytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_mib: Option<f64>,
    /// Memory of one GPU, as a share of all that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_share: Option<f64>,
}

impl PerUnit {
    /// Returns how much of a resource each unit takes, where the machine has `all` of it; `None` where it takes none, and where a
    /// share is one of nobody knows how much.
    pub fn of(&self, resource: Resource, all: Option<f64>) -> Option<f64> {
        let amount = match resource {
            Resource::Cores => None,
            Resource::Memory => self.memory_mib,
            Resource::GpuMemory => match (self.gpu_memory_mib, self.gpu_memory_share) {
                (amount, None) => amount,
                (amount, Some(share)) => Some(amount.unwrap_or_default() + share * all?),
            },
        };
        amount.filter(|amount| *amount > 0.0 && amount.is_finite())
    }
}

/// What the machine has left of a resource for what an experiment varies: no candidate takes more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The resource.
    pub of: Resource,
    /// How much of it each unit of a parameter takes, in mebibytes.
    pub each: BTreeMap<String, f64>,
    /// How much of it they may take together, in mebibytes.
    pub max: f64,
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
