//! The loop of kloros, room by room.

pub mod facts;

pub mod seams;
