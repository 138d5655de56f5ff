use super::*;
use crate::{
    chat::memory::message,
    event::{DeviceTrust, Kind, Reading, Room, Sender},
    gate::Denial,
    id::UserId,
};

fn event(number: usize) -> EventId {
    EventId::parse(format!("${number}")).unwrap()
}

fn arrival(number: usize, verdict: Verdict) -> Arrival {
    let sender = UserId::parse("@alice:memory").unwrap();
    let event = Event {
        id: event(number),
        room: Room { id: RoomId::parse("!r").unwrap(), direct: true, encrypted: false },
        sender: Sender { id: sender, display_name: None, device: DeviceTrust::Cleartext },
        sent: 0,
        mark: None,
        kind: Kind::Message(message("hello")),
        reading: Reading::AtOnce,
    };
    Arrival { event, verdict, session: SessionId::parse("!r").unwrap() }
}

#[tokio::test]
async fn what_has_ended_is_forgotten_some_day_and_what_waits_is_not() {
    let (journal, agent) = (Memory::default(), AgentName::parse("agent").unwrap());
    let known = async |number| journal.known(&agent, &event(number)).await.unwrap().is_some();
    let denied = |number| arrival(number, Verdict::Deny(Denial::NotListed));
    let mut arrivals = vec![arrival(0, Verdict::Allow)];
    arrivals.extend((1..=REMEMBERED + 1).map(denied));
    let received = journal.receive(&agent, &arrivals, &Position("here".into())).await.unwrap();
    let waits = received[0].unwrap();
    assert_eq!([known(0).await, known(1).await, known(2).await], [true, false, true]);

    let delivery = DeliveryId::parse("d").unwrap();
    let end = Commit::own(agent.clone(), waits, delivery, vec![]);
    for _ in 0..2 {
        assert_eq!(journal.commit(end.clone()).await.unwrap(), []);
        assert_eq!([known(0).await, known(2).await, known(3).await], [true, false, true]);
    }
    let later: Vec<_> = (0..=REMEMBERED).map(|number| denied(2 * REMEMBERED + number)).collect();
    journal.receive(&agent, &later, &Position("there".into())).await.unwrap();
    let ledger = journal.ledger();
    let agent = &ledger.agents[&agent];
    assert_eq!((agent.received.len(), agent.known.len(), agent.committed.len()), (REMEMBERED, REMEMBERED, 0));
}

#[test]
fn what_was_sent_is_forgotten_some_day_and_its_name_with_it() {
    let mut agent = Agent::default();
    let (plugin, room) = (PluginName::parse("plugin").unwrap(), RoomId::parse("!r").unwrap());
    for number in 0..=REMEMBERED {
        let name = if number == 0 { "first" } else { "newest" }.to_owned();
        let newest = Newest { row: 0, event: event(number), room: room.clone(), file: false };
        agent.named.entry(plugin.clone()).or_default().insert(name.clone(), newest);
        agent
            .messages
            .insert(event(number), Known { room: room.clone(), by: Some(plugin.clone()), file: false });
        let delivery = DeliveryId::parse(format!("d{number}")).unwrap();
        let id = EffectId { delivery, ordinal: Some(0) };
        agent.accepted(Delivered { id, event: event(number), name: Some((plugin.clone(), name)) });
    }
    assert_eq!(
        (agent.accepted.len(), agent.messages.len(), agent.sent.len()),
        (REMEMBERED, REMEMBERED, REMEMBERED)
    );
    assert!(!agent.messages.contains_key(&event(0)));
    assert_eq!(agent.named[&plugin].keys().collect::<Vec<_>>(), ["newest"]);
    let id = EffectId { delivery: DeliveryId::parse("again").unwrap(), ordinal: Some(0) };
    agent.accepted(Delivered { id, event: event(0), name: Some((plugin.clone(), "other".into())) });
    assert_eq!(agent.named[&plugin].keys().collect::<Vec<_>>(), ["newest"], "it has a newer message");
}
