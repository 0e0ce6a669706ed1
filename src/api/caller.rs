//! Who asks, as the door has found out.

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};

use super::refusal;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody whose word counts: this user, whom the kernel named, or who has read the token that only they can read.
    User(u32),
    /// Somebody who reached the door, and may look on.
    Anyone,
}

impl Caller {
    /// Returns the user whose word it is. What acts is asked by nobody else, see [`only_users`].
    pub(super) fn uid(self) -> Option<u32> {
        match self {
            Self::User(uid) => Some(uid),
            Self::Anyone => None,
        }
    }
}

/// Lets through only those whose word counts.
pub(super) async fn only_users(request: Request, next: Next) -> Response {
    if let Some(Caller::User(_)) = request.extensions().get::<Caller>() {
        return next.run(request).await;
    }
    let why = "to change anything takes the token: kloros console prints it, or read .kloros/api.token in the home";
    let mut response = refusal(StatusCode::UNAUTHORIZED, why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kloros\""));
    response
}
