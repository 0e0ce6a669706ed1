//! The bench against real endpoints and real processes.

mod endpoint;

mod chat;

mod http;

mod speech;

mod live_load;

mod runner;
