//! An experiment on the serving instance itself: it asks first, measures what is lent, and gives it back before it ends.

use std::sync::Mutex;

use super::*;
use crate::{
    facts::{Answer, Authority, Autonomy, DeploymentId, Loan, LoanStep, Measurement, Origin, Promotion, Ruling},
    seams::{Borrower, Errand, Untried},
    testing::in_place,
};

/// The deployer's part: lends what it is asked for, and measures as the world's bench does.
#[derive(Clone)]
struct Lender {
    world: World,
    /// The number of the errand, from 1, in which the loan ends.
    cut: usize,
    errands: Arc<Mutex<Vec<String>>>,
}

impl Lender {
    fn lend(&self, promotion: &Promotion) {
        let number = self.world.journal.count(Kind::Loan) + 1;
        self.world.write(vec![Fact::Loan(Loan {
            id: DeploymentId::new(format!("l-{number}")),
            experiment: experiment().id,
            promotion: promotion.id.clone(),
            domain: "lab".to_owned(),
            authority: Authority::Policy(Autonomy::Full),
            at_ms: 0,
        })]);
    }

    fn end(&self) {
        let loan = DeploymentId::new(format!("l-{}", self.world.journal.count(Kind::Loan)));
        let step = LoanStep::Ended { why: "the window ended".to_owned() };
        self.world.write(vec![Fact::LoanStep { loan, experiment: experiment().id, step }]);
    }

    fn carry_out(&self, errand: Errand) {
        assert_eq!(errand.whose, Borrower::Experiment(experiment().id));
        let label = errand.assignment.as_ref().map_or_else(|| "back".to_owned(), |each| each.label.clone());
        let number = {
            let mut errands = self.errands.lock().unwrap();
            errands.push(label);
            errands.len()
        };
        let answer = match errand.assignment {
            None => {
                self.end();
                Ok(None)
            }
            Some(_) if number == self.cut => {
                self.end();
                Err(Untried::Interrupted("the window ended".to_owned()))
            }
            Some(assignment) => {
                let metrics = rate(10.0 * number_of(&assignment), &assignment);
                let (source, in_effect) = ("a test".to_owned(), std::collections::BTreeMap::new());
                let (samples, window_ms, at_ms, others, discarded) = (50, 1000, 0, None, 0);
                Ok(Some(Measurement { metrics, samples, window_ms, in_effect, source, at_ms, others, discarded }))
            }
        };
        errand.reply.send(answer).ok();
    }
}

fn number_of(assignment: &crate::seams::Assignment) -> f64 {
    number(&assignment.settings, "SEQS")
}

/// Opens a room whose gate does `what` with each promotion.
async fn open_with(lender: &Lender, what: impl Fn(&Lender, Promotion) + Send + Sync + 'static) -> Room {
    let mut room = open(&lender.world).await;
    let (gate, deployer) = (lender.clone(), lender.clone());
    room.exits.promotions = Outlet::to(move |promotion| what(&gate, promotion));
    room.exits.errands = Outlet::to(move |errand| deployer.carry_out(errand));
    room.catalogue = in_place("mon-sun");
    room
}

fn lender(cut: usize) -> Lender {
    Lender { world: World::with_env("SEQS=3\n"), cut, errands: Arc::default() }
}

#[tokio::test]
async fn it_asks_for_the_service_as_far_as_it_may_go_and_gives_it_back_before_it_ends() {
    let lender = lender(usize::MAX);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let room = open_with(&lender, move |lender, promotion| {
        lender.lend(&promotion);
        seen.lock().unwrap().push(promotion);
    })
    .await;
    room.run().await;
    let ExperimentEnd::Won { winner, .. } = room.ended.next(SOON).await.unwrap() else { panic!("no winner") };
    assert!(winner.best.fitness > 0.0);
    let trials = room.trials();
    assert_eq!((trials.len(), trials[0].params["seqs"].clone()), (8 + 4, Value::Integer(3)));
    let errands = lender.errands.lock().unwrap().clone();
    assert_eq!((errands.len(), errands.last().map(String::as_str)), (13, Some("back")));
    assert!(room.world.bench.begun().is_empty(), "no second instance is started");
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].origin, Origin::Trials(experiment().id));
    let change = |name: &str| asked[0].changes[&crate::testing::key(name)].to.clone();
    assert_eq!((change("SEQS"), change("WAIT")), (Value::Integer(64), Value::Integer(0)));
    assert!(asked[0].changes[&crate::testing::key("SEQS")].in_file);
}

#[tokio::test]
async fn a_trial_that_was_cut_off_is_made_anew_with_the_next_loan_and_no_other_is() {
    let lender = lender(4);
    let room = open_with(&lender, |lender, promotion| lender.lend(&promotion)).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Won { .. }));
    let errands = lender.errands.lock().unwrap().clone();
    assert_eq!(errands[3], errands[4], "{errands:?}");
    let mut once = errands.clone();
    once.dedup();
    assert_eq!((errands.len(), once.len()), (14, 13));
    assert_eq!((room.trials().len(), room.world.journal.count(Kind::Loan)), (12, 2));
}

#[tokio::test]
async fn it_says_nothing_where_the_service_is_never_lent() {
    let no = |promotion: &Promotion, by_uid| Answer {
        promotion: promotion.id.clone(),
        approved: false,
        by_uid,
        why: None,
        binding: String::new(),
    };
    for (part, refuses) in [("protected", 0), ("a person said no", 1), ("nobody answered in time", 2)] {
        let lender = lender(usize::MAX);
        let room = open_with(&lender, move |lender, promotion| {
            let refusal = Ruling::Refuse { promotion: promotion.id.clone(), why: "LD_PRELOAD is protected".to_owned() };
            lender.world.write(vec![match refuses {
                0 => Fact::Ruling(refusal),
                1 => Fact::Answer(no(&promotion, Some(7))),
                _ => Fact::Answer(no(&promotion, None)),
            }]);
        })
        .await;
        room.run().await;
        let ExperimentEnd::Void { why, cause, .. } = room.ended.next(SOON).await.unwrap() else { panic!("{part}") };
        assert!(why.contains(part), "{why}");
        assert_eq!((cause, room.questions.next(SOON).await.unwrap().how.as_str()), (VoidCause::Withheld, "refused"));
        assert_eq!((room.trials().len(), lender.errands.lock().unwrap().len()), (0, 0));
    }
}

#[tokio::test]
async fn it_compares_with_nothing_that_somebody_changed_between_two_loans() {
    let lender = lender(4);
    let room = open_with(&lender, |lender, promotion| {
        if lender.world.journal.count(Kind::Loan) == 0 {
            lender.lend(&promotion);
        }
    })
    .await;
    room.world.services.set_default("WAIT", "20");
    let socket = room.run().await;
    eventually(|| lender.errands.lock().unwrap().len() == 4).await;
    room.world.env.set("SEQS=5\n");
    room.world.services.load();
    drop(socket);
    let end = room.ended.next(SOON).await.unwrap();
    assert!(matches!(&end, ExperimentEnd::Void { why, .. } if why.contains("changed since it began")), "{end:?}");
}
