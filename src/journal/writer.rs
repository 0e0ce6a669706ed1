//! The one connection that writes, on a thread of its own, so that nobody's runtime waits for the disk.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use kloros_actors::{
    facts::{Entry, Fact, Kind, Recorded, TELLING},
    meters::JOURNAL_COMMIT_DURATION,
    seams::{Appended, JournalError},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    audit,
    codec::{self, Encoded},
    fault::Fault,
    mark::Mark,
    open_work,
    projection::{self, FEED_QUESTIONS_MAX, Projected, Shape},
    schema::Identity,
};
use crate::crash;

/// How many callers share one transaction, and so one wait for the disk.
const GROUP_MAX: usize = 64;

/// Something to be written.
pub(super) enum Job {
    /// New facts, all or none.
    Append(Vec<Entry>, oneshot::Sender<Result<Vec<Appended>, JournalError>>),
    /// Rows of the outbox that now stand in their files.
    Delivered(Vec<i64>, oneshot::Sender<Result<(), JournalError>>),
    /// The write-ahead log is to be moved into the database.
    Fold(oneshot::Sender<Result<(), JournalError>>),
}

/// What the writer and everybody who asks it have in common.
pub(super) struct Shared {
    /// The files that are open.
    pub(super) identity: Identity,
    /// Why nothing more is written, once that is so.
    pub(super) suspect: OnceLock<String>,
    /// The place of the newest fact.
    pub(super) appended: watch::Sender<u64>,
}

impl Shared {
    /// Says whether the journal may still be written to.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match self.suspect.get() {
            Some(why) => Err(Fault::Damaged(why.clone())),
            None => self.identity.check().inspect_err(|fault| self.learn(fault)),
        }
    }

    /// Remembers a fault after which nothing more may be written.
    pub(super) fn learn(&self, fault: &Fault) {
        if let Fault::Damaged(why) = fault
            && self.suspect.set(why.clone()).is_ok()
        {
            tracing::error!(%why, "the journal is damaged, nothing more is written to it");
        }
    }
}

/// The one who writes, until somebody else takes the journal over.
pub(super) struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    epoch: i64,
    mark: Mark,
}

/// A caller of [`Job::Append`] in the transaction under way.
struct Caller {
    rows: Vec<Encoded>,
    answer: oneshot::Sender<Result<Vec<Appended>, JournalError>>,
}

impl Writer {
    /// Returns the writer of `connection`, which took the journal over in this `epoch`.
    pub(super) fn new(connection: Connection, shared: Arc<Shared>, epoch: i64, mark: Mark) -> Self {
        Self { connection, shared, epoch, mark }
    }

    /// Writes what comes until nobody can send any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = jobs.try_recv()
            {
                group.push(next);
            }
            self.serve(group);
        }
    }

    fn serve(&mut self, group: Vec<Job>) {
        let (mut callers, mut delivered, mut waiting, mut folds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for job in group {
            match job {
                Job::Append(entries, answer) => match entries.into_iter().map(Encoded::of).collect::<Result<_, _>>() {
                    Ok(rows) => callers.push(Caller { rows, answer }),
                    Err(refused) => drop(answer.send(Err(refused.into()))),
                },
                Job::Delivered(ids, answer) => {
                    delivered.extend(ids);
                    waiting.push(answer);
                }
                Job::Fold(answer) => folds.push(answer),
            }
        }
        self.write(callers, &delivered, waiting);
        for answer in folds {
            let _ = answer.send(self.fold().map_err(JournalError::from));
        }
    }

    fn write(
        &mut self,
        callers: Vec<Caller>,
        delivered: &[i64],
        waiting: Vec<oneshot::Sender<Result<(), JournalError>>>,
    ) {
        if callers.is_empty() && delivered.is_empty() {
            return;
        }
        let (rows, answers): (Vec<_>, Vec<_>) = callers.into_iter().map(|caller| (caller.rows, caller.answer)).unzip();
        // A caller who no longer listens has asked all the same: the answers are sent to nobody.
        let begun = Instant::now();
        let committed = self.commit(rows, delivered);
        metrics::histogram!(JOURNAL_COMMIT_DURATION).record(begun.elapsed());
        match committed {
            Ok(places) => {
                for (answer, places) in answers.into_iter().zip(places) {
                    let _ = answer.send(Ok(places));
                }
                for answer in waiting {
                    let _ = answer.send(Ok(()));
                }
            }
            Err(fault) => {
                for answer in answers {
                    let _ = answer.send(Err(fault.clone().into()));
                }
                for answer in waiting {
                    let _ = answer.send(Err(fault.clone().into()));
                }
            }
        }
    }

    /// Moves the write-ahead log into the database and empties it. That somebody reads meanwhile only puts it off.
    fn fold(&self) -> Result<(), Fault> {
        self.shared.check()?;
        let told = |error: rusqlite::Error| Fault::of(self.shared.identity.path(), &error);
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(told)
    }

    /// Writes everything in one transaction, and returns where each caller's facts stand once that is durable.
    fn commit(&mut self, callers: Vec<Vec<Encoded>>, delivered: &[i64]) -> Result<Vec<Vec<Appended>>, Fault> {
        self.shared.check()?;
        let path = self.shared.identity.path().to_owned();
        let written = self.transact(callers, delivered).map_err(|trouble| match trouble {
            Trouble::Database(error) => Fault::of(&path, &error),
            Trouble::Superseded => Fault::Damaged(format!(
                "another kloros has opened {} after this one, which may no longer write",
                path.display()
            )),
            Trouble::Projection(error) => projection::unprintable(&error),
        });
        let (places, last) = written.inspect_err(|fault| self.shared.learn(fault))?;
        // A database that lost its name takes what is written with it, and it is written all the same.
        self.shared.check()?;
        self.mark.set(last);
        self.shared.appended.send_if_modified(|seen| std::mem::replace(seen, last) != last);
        Ok(places)
    }

    fn transact(
        &mut self,
        callers: Vec<Vec<Encoded>>,
        delivered: &[i64],
    ) -> Result<(Vec<Vec<Appended>>, u64), Trouble> {
        crash::here("journal: begin");
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let epoch: i64 = transaction.query_row("SELECT number FROM epoch", [], |row| row.get(0))?;
        if epoch != self.epoch {
            return Err(Trouble::Superseded);
        }
        let mut batch = Batch::begin(&transaction)?;
        let mut places = Vec::with_capacity(callers.len());
        for rows in callers {
            places.push(rows.into_iter().map(|row| batch.insert(row)).collect::<Result<Vec<_>, _>>()?);
        }
        let last = batch.finish()?;
        for id in delivered {
            transaction.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
        }
        crash::here("journal: commit");
        transaction.commit()?;
        crash::here("journal: committed");
        Ok((places, last))
    }
}

/// Takes the journal over, and returns the new epoch: whoever opened it before can no longer write.
pub(super) fn take_over(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("UPDATE epoch SET number = number + 1 RETURNING number", [], |row| row.get(0))
}

enum Trouble {
    Database(rusqlite::Error),
    Superseded,
    Projection(serde_json::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(error: serde_json::Error) -> Self {
        Self::Projection(error)
    }
}

/// The facts of one transaction.
struct Batch<'a> {
    transaction: &'a Transaction<'a>,
    last: i64,
    /// Where and when the open questions changed last in this transaction.
    questioned: Option<(i64, u64)>,
}

impl<'a> Batch<'a> {
    fn begin(transaction: &'a Transaction<'a>) -> rusqlite::Result<Self> {
        let last = last_place(transaction)?;
        Ok(Self { transaction, last, questioned: None })
    }

    fn insert(&mut self, row: Encoded) -> Result<Appended, Trouble> {
        let seq = self.last + 1;
        let digest = row.digest(seq);
        let inserted = self
            .transaction
            .prepare_cached(
                "INSERT INTO facts (seq, cycle, at_ms, kind, subject, once, body, digest)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (once) DO NOTHING",
            )?
            .execute(params![seq, row.cycle, row.at_ms, row.kind.label(), row.subject, row.once, row.body, digest])?;
        if inserted == 0 {
            return Ok(Appended::Already);
        }
        self.last = seq;
        let audited = audit::Row {
            seq,
            cycle: row.cycle.clone(),
            at_ms: row.at_ms,
            kind: row.kind.label().to_owned(),
            subject: row.subject.clone(),
            body: row.body.clone(),
        };
        if let Some(line) = audit::link(self.transaction, &audited)? {
            enqueue(self.transaction, seq, &line)?;
        }
        let recorded = row.recorded(seq);
        self.note_question(seq, &recorded)?;
        if TELLING.contains(&recorded.fact.kind()) {
            open_work::note(self.transaction, recorded.fact.subject())?;
        }
        for projected in projection::of(&recorded)? {
            enqueue(self.transaction, seq, &projected)?;
        }
        Ok(Appended::At(recorded.seq))
    }

    fn note_question(&mut self, seq: i64, recorded: &Recorded) -> rusqlite::Result<()> {
        let subject = recorded.fact.subject();
        match &recorded.fact {
            Fact::Question(_) => self
                .transaction
                .prepare_cached("INSERT OR REPLACE INTO open_questions (question, seq) VALUES (?1, ?2)")?
                .execute(params![subject, seq])?,
            Fact::QuestionEnd(_) => {
                self.transaction.prepare_cached("DELETE FROM open_questions WHERE question = ?1")?.execute([subject])?
            }
            _ => return Ok(()),
        };
        self.questioned = Some((seq, recorded.at_ms));
        Ok(())
    }

    /// Adds what depends on all facts of the transaction, and returns the place of the last one.
    fn finish(self) -> Result<u64, Trouble> {
        if let Some((seq, at_ms)) = self.questioned {
            let feed = projection::feed(&open_questions(self.transaction)?, seq.cast_unsigned(), at_ms)?;
            enqueue(self.transaction, seq, &feed)?;
        }
        open_work::known(self.transaction, self.last)?;
        Ok(self.last.cast_unsigned())
    }
}

/// Returns the place of the newest fact, 0 without any.
pub(super) fn last_place(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(seq), 0) FROM facts", [], |row| row.get(0))
}

/// Returns the feed as the facts say, or `None` when no question was ever asked.
pub(super) fn current_feed(connection: &Connection) -> rusqlite::Result<Option<serde_json::Result<Projected>>> {
    let newest = connection
        .query_row(
            "SELECT seq, at_ms FROM facts WHERE kind IN (?1, ?2) ORDER BY seq DESC LIMIT 1",
            [Kind::Question.label(), Kind::QuestionEnd.label()],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
        .optional()?;
    let Some((seq, at_ms)) = newest else { return Ok(None) };
    let open = open_questions(connection)?;
    Ok(Some(projection::feed(&open, seq.cast_unsigned(), at_ms.cast_unsigned())))
}

fn open_questions(connection: &Connection) -> rusqlite::Result<Vec<Recorded>> {
    let sql = format!(
        "SELECT {} FROM facts WHERE seq IN (SELECT seq FROM open_questions ORDER BY seq DESC LIMIT {FEED_QUESTIONS_MAX})
         ORDER BY seq",
        codec::COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    // A question that cannot be read is found by whoever reads the facts; it must not keep others from being asked.
    let rows = statement.query_map([], codec::decode)?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.into_iter().filter_map(Result::ok).collect())
}

/// Takes up what an older kloros wrote, into the audit trail and among what is open, all or nothing, and returns how many facts
/// the trail grew by.
pub(super) fn take_up_older(connection: &mut Connection) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let unlinked = audit::unlinked(&transaction)?;
    for row in &unlinked {
        if let Some(line) = audit::link(&transaction, row)? {
            enqueue(&transaction, row.seq, &line)?;
        }
    }
    open_work::catch_up(&transaction)?;
    transaction.commit()?;
    Ok(unlinked.len())
}

fn enqueue(transaction: &Transaction<'_>, seq: i64, projected: &Projected) -> rusqlite::Result<()> {
    if projected.shape == Shape::Whole {
        // The newest content replaces the older ones in the file, so it may do so here.
        transaction.prepare_cached("DELETE FROM outbox WHERE file = ?1")?.execute([&projected.file])?;
    }
    transaction
        .prepare_cached("INSERT INTO outbox (seq, file, shape, content) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![seq, projected.file, projected.shape.label(), projected.content])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{CycleId, Turn};

    use super::{super::schema, *};
    use crate::home::Home;

    fn rows() -> Vec<Vec<Encoded>> {
        let turn = Turn { conversation: "t".into(), from_user: true, text: "x".repeat(100_000), at_ms: 1 };
        vec![vec![Encoded::of(Entry::new(&CycleId::new("c-1"), 1, Fact::Turn(turn))).unwrap()]]
    }

    fn writer(home: &Home) -> Writer {
        home.create().unwrap();
        let connection = schema::open_writer(&home.journal()).unwrap();
        let epoch = take_over(&connection).unwrap();
        let identity = Identity::of(&home.journal()).unwrap();
        let shared = Shared { identity, suspect: OnceLock::new(), appended: watch::Sender::new(0) };
        Writer::new(connection, Arc::new(shared), epoch, Mark::open(&home.journal(), 0).unwrap())
    }

    #[track_caller]
    fn check(pragma: &str, hindered: u32, free: u32) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&Home::at(folder.path()).unwrap());
        writer.connection.pragma_update(None, pragma, hindered).unwrap();
        let refused = writer.commit(rows(), &[]).unwrap_err();
        assert!(matches!(refused, Fault::Unwritable(_)), "{refused:?}");
        writer.shared.check().unwrap();
        writer.connection.pragma_update(None, pragma, free).unwrap();
        assert_eq!(writer.commit(rows(), &[]).unwrap(), [[Appended::At(1)]]);
    }

    #[test]
    fn a_full_or_read_only_disk_refuses_facts_and_takes_them_again_when_it_can() {
        check("max_page_count", 1, 1_000_000);
        check("query_only", 1, 0);
    }
}
