//! A whole tree: a house with a cook who fails now and then, and whose place is never empty for long.

use std::time::Duration;

use kloros_supervision::{ChildSpec, Intensity, Socket, Strategy, TreeSpec, start};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

struct Cook;

impl Actor for Cook {
    type Msg = (u32, RpcReplyPort<String>);
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Self::Msg>, msg: Self::Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let (dish, plate) = msg;
        assert!(dish % 3 != 0, "dish {dish} is burnt");
        Ok(plate.send(format!("dish {dish}"))?)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kitchen = Socket::new("cook");
    let often = Intensity { restarts_max: 10, within: Duration::from_secs(60) };
    let house = TreeSpec::new("house", Strategy::OneForOne).intensity(often);
    let tree = start(house.child(ChildSpec::actor("cook", &kitchen, || (Cook, ())))).await?;
    let mut served = String::new();
    for dish in 1..=7 {
        let plate = kitchen.call(|plate| (dish, plate), Duration::from_secs(1)).await;
        served += &plate.unwrap_or_else(|error| format!("no dish {dish}: {error}"));
        served += "\n";
    }
    tree.stop(Duration::from_secs(5)).await?;
    Ok(std::io::Write::write_all(&mut std::io::stdout(), served.as_bytes())?)
}
