//! The loop of kloros, room by room, in the order in which a cause becomes a lesson.

// WHAT FLOWS: plain data, from a reading to a lesson.
pub mod facts;

// WHAT IS PLUGGED IN: the traits that the shell implements.
pub mod seams;

mod record;

pub mod meters;

pub mod config;

// The dialect of env files, which the gate reads and the deployer writes.
pub mod env_file;

// 1 SENSE: what is unlike its past?
pub mod observer;

// 2 ASK: what question is worth an experiment?
pub mod curiosity;

// 3 ROUTE: where does each intent go, and when?
pub mod coordinator;

// 4 EVOLVE: which settings would be better, measured?
pub mod dream;

// 5 PERMIT: may this be done without a person?
pub mod gate;

// 6 ACT: change the service, able to change it back.
pub mod deployer;

// 7 JUDGE: did it do what was promised?
pub mod validator;

// 8 LEARN: what does the verdict teach?
pub mod feedback;

// Beside the loop: GPUs.
pub mod gpu;

// Beside the loop: conversations.
pub mod memory;

// THE LOOP CLOSES HERE.
pub mod circuit;

#[cfg(test)]
mod testing;
