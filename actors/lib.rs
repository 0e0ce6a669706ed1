//! The loop of kloros, room by room.

pub mod facts;

pub mod seams;

pub mod config;

pub mod observer;

pub mod curiosity;

pub mod coordinator;

pub mod dream;

pub mod gate;

pub mod deployer;

pub mod validator;

pub mod feedback;

pub mod gpu;

pub mod memory;
