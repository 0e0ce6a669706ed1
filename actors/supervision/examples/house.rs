//! A whole tree: a house with a cook who fails now and then, and whose place is never empty for long.

use std::time::Duration;

use kloros_supervision::{ChildSpec, Intensity, Shutdown, Socket, Strategy, TreeSpec, start};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

struct Cook;

impl Actor for Cook {
    type Msg = (u32, RpcReplyPort<String>);
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        (dish, plate): Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        assert!(dish % 3 != 0, "dish {dish} is burnt");
        plate.send(format!("dish {dish}"))?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kitchen = Socket::new("cook");
    let cook = ChildSpec::actor("cook", &kitchen, || (Cook, ())).shutdown(Shutdown::Within(Duration::from_secs(1)));
    let often = Intensity { restarts_max: 10, within: Duration::from_secs(60) };
    let tree = start(TreeSpec::new("house", Strategy::OneForOne).intensity(often).child(cook)).await?;
    let mut served = Vec::new();
    for dish in 1..=7 {
        match kitchen.call(|plate| (dish, plate), Duration::from_secs(1)).await {
            Ok(plate) => served.push(plate),
            Err(error) => served.push(format!("no dish {dish}: {error}")),
        }
    }
    let snapshot = tree.snapshot();
    let cook = snapshot.find("cook").ok_or("the cook is gone")?;
    served.push(format!(
        "{} restarts, at last because it {}",
        cook.restarts,
        cook.last_failure.as_deref().unwrap_or("-")
    ));
    tree.stop(Duration::from_secs(5)).await?;
    Ok(std::io::Write::write_all(&mut std::io::stdout(), (served.join("\n") + "\n").as_bytes())?)
}
