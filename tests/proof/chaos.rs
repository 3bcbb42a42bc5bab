//! Everything at once: a seeded schedule of faults on three brokers, while records of every kind flow.
//!
//! What each record must end in follows from its number alone, so the checker can tell, whatever happened on the way.

mod records;
mod host;
mod clock;
mod faults;
mod check;

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidemill_tests::{Client, Kafka, LONG, Service};

use self::check::check;
use self::clock::Clock;
use self::faults::{Deck, Scene};
use self::host::Host;
use self::records::{ATTEMPTS, ENDS, kind, mix, record};
use crate::dice::{Dice, pass, records, rounds};
use crate::rig::{PARTITIONS, Rig, manifest};

/// How long a round of faults may take until the daemon reads again.
const ROUND: Duration = Duration::from_secs(120);

/// Invariants 1 to 6 together: each record is applied once, or given up on exactly as its policy says and compensated
/// once; in order for its key; each event is on its topic, its first appearances in order; nothing is left over.
#[test]
fn s1_6_s3_3_whatever_happens_each_record_ends_as_its_policy_says() {
    let mut dice = Dice::new("chaos");
    let (rounds, records) = (rounds(8, 60), records(400, 1_000));
    let kafka = Kafka::start(3);
    let service = Service::start();
    let rig = Rig::bare(&kafka);
    let later = rig.sandbox.unique("later");
    rig.client.create_topic(&later, PARTITIONS);
    let order = if dice.once_in(2) { "key" } else { "partition" };
    println!("order by {order}");
    rig.sandbox.write_toml(&settings(&rig, order, &service));
    let manifest = manifest().replace("[publish]\n", &format!("[publish]\nlater = \"{later}\"\n"));
    rig.sandbox.deploy_bytes("hostile.toml", manifest.as_bytes());
    rig.sandbox.deploy("hostile");
    let clock = Clock::new(&rig.sandbox);
    let mut scene = Scene::new(Host::start(&rig, clock), &kafka);
    let mut deck = Deck::default();
    for round in 0..rounds {
        let fault = deck.draw(&mut dice);
        let began = Instant::now();
        scene.prepare(fault, &mut dice);
        let flow = produce(&rig, round * records..(round + 1) * records, service.url(), dice.below(1_000));
        pass(dice.within(Duration::from_millis(800)));
        scene.inject(fault, &mut dice, round);
        scene.produced += flow.join().expect("the producer goes on to its end");
        let produced = scene.produced;
        scene.until(ROUND, &format!("records are read on after {fault:?}"), |scene| scene.read() + records > produced);
        println!(
            "round {round}: {fault:?} took {} ms; {} of {produced} read",
            began.elapsed().as_millis(),
            scene.read()
        );
    }
    scene.settle(LONG * 2);
    println!("faults: {deck}");
    check(&scene, &later, rounds * records, deck.has_set_the_clock_forward());
    scene.host.stop();
}

fn settings(rig: &Rig, order: &str, service: &Service) -> String {
    let more = format!(
        "event-id = \"eid\"\ngrant = {{ http = [\"{}\"] }}\n[handler.hostile.limits]\ntime = \"500ms\"\nmemory = \"16MiB\"\n\
         [handler.hostile.retry]\norder = \"{order}\"\nmax-attempts = {ATTEMPTS}\n\
         backoff = {{ kind = \"exponential\", interval = \"20ms\", max = \"100ms\", jitter = 0.5 }}",
        service.url()
    );
    // Less than the clock is set by, and more than a repeated record takes.
    format!("{}[inbox]\nkeep = \"10m\"\n", rig.settings(&more))
}

/// Produces records, and some of them and of those of the round before again; returns how many in all.
fn produce(rig: &Rig, numbers: std::ops::Range<u64>, service: &str, salt: u64) -> JoinHandle<u64> {
    let (client, topic, url): (Client, _, _) = (rig.client.clone(), rig.input.clone(), service.to_owned());
    std::thread::spawn(move || {
        let mut produced = 0;
        let round = numbers.end - numbers.start;
        let chunk = round.div_ceil(4);
        for start in numbers.clone().step_by(chunk as usize) {
            let chunk = start..(start + chunk).min(numbers.end);
            let again = |n: &u64| mix(*n ^ salt).is_multiple_of(30) && kind(*n).is_applied();
            let before = chunk.clone().filter_map(|n| n.checked_sub(round));
            let again: Vec<u64> = chunk.clone().chain(before).filter(again).collect();
            produced += chunk.end - chunk.start + again.len() as u64;
            client.produce_all(&topic, chunk.chain(again).map(|n| record(n, &url)));
            pass(Duration::from_millis(50));
        }
        produced
    })
}
