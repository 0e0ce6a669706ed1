//! The rooms of the conversation endpoint, where there is one.

use std::{net::TcpListener, sync::Arc};

use anyhow::Context;
use kloros_actors::{
    circuit::Control,
    seams::{Archive, ArchiveError, NoArchive, Seams},
};
use kloros_supervision::ChildSpec;

use crate::{
    archive::Conversations,
    background,
    conversation::{Endpoint, Signals, condense, serve},
    home::Home,
    settings::{Conversation, Settings},
};

/// Fails when nothing can listen where conversations are to be held, while that can still be told to whoever started the daemon.
pub(super) fn check(settings: &Conversation) -> anyhow::Result<()> {
    let Some(address) = settings.address() else { return Ok(()) };
    let refused = || format!("cannot listen on {address} for conversations: set conversation.listen to a free one");
    TcpListener::bind(address).map(drop).with_context(refused)
}

/// Returns the conversations of the home. A daemon without a memory of them does everything else.
pub(super) fn conversations(home: &Home) -> Result<Conversations, ArchiveError> {
    let opened = Conversations::open(&home.conversations());
    if let Err(error) = &opened {
        tracing::error!(%error, "conversations are not remembered");
    }
    opened
}

/// Returns where conversations are kept: nowhere, with the reason, if they cannot be.
pub(super) fn archive(conversations: Result<&Conversations, &ArchiveError>) -> Arc<dyn Archive> {
    match conversations {
        Ok(conversations) => Arc::new(conversations.clone()),
        Err(error) => Arc::new(NoArchive(error.clone())),
    }
}

/// Returns what conversations tell of the service that answers them.
pub(super) fn signals(settings: &Conversation, seams: &Seams) -> Option<Signals> {
    let address = settings.address()?;
    Some(Signals::new(&settings.domain, &format!("http://{address}"), Arc::clone(&seams.clock)))
}

/// Returns the rooms in which conversations are held and condensed. What is condensed is condensed while nobody measures.
pub(super) fn children(
    settings: &Settings,
    control: &Control,
    seams: &Seams,
    signals: Option<&Signals>,
    conversations: Option<&Conversations>,
) -> anyhow::Result<Vec<ChildSpec>> {
    let (machine, settings) = (settings.measuring.machine(), &settings.conversation);
    let (Some(address), Some(signals)) = (settings.address(), signals) else { return Ok(Vec::new()) };
    let endpoint = Endpoint::new(settings, control.voice(), signals.clone(), Arc::clone(&seams.clock))?;
    let listening = endpoint.clone();
    let mut children = vec![background::child("conversation", move || serve(address, listening.clone()))];
    if let Some(conversations) = conversations.filter(|_| settings.condense).cloned() {
        let condensing = move || condense(endpoint.clone(), conversations.clone(), machine.clone());
        children.push(background::child("condenser", condensing));
    }
    Ok(children)
}
