//! Has tools, well and badly behaved, and calls those of others. The tests load it under several names.

use std::{thread, time::Duration};

use parlour_plugin::prelude::*;

struct Handy;

impl Commands for Handy {
    fn list_commands() -> Vec<Command> {
        let tool = |name, description| {
            Command::new(name, description)
                .parameter(Parameter::text("tool", "Which"))
                .parameter(Parameter::text("arguments", "As JSON").optional())
        };
        vec![
            Command::new("tools", "Says which tools there are"),
            Command::new("generation", "Says of which generation they are"),
            Command::new("stale", "Calls a tool, if they are still of that generation")
                .parameter(Parameter::integer("generation", "Which"))
                .parameter(Parameter::text("tool", "Which")),
            tool("use", "Calls a tool, and says what comes of it"),
            tool("model", "Calls a tool, and says what a model would be given"),
            tool("between", "Says something, calls a tool, and says something"),
            tool("twice", "Calls a tool twice"),
            tool("often", "Calls a tool until it cannot"),
            tool("pass", "Calls a tool, and passes its error on"),
            tool("crash", "Calls a tool, and crashes"),
        ]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let name = call.text("tool").unwrap_or_default();
        let arguments = call.text("arguments").unwrap_or_else(|| "{}".into());
        let said = |answer: Result<toolbox::Output, Error>| match answer {
            Ok(output) => output.untrusted,
            Err(error) => told(&error),
        };
        match call.name.as_str() {
            "tools" => {
                let names: Vec<String> = toolbox::tools()?.into_iter().map(|tool| tool.name).collect();
                outbox::say(if names.is_empty() { "none".into() } else { names.join(" ") })?;
            }
            "generation" => {
                let toolbox::Listing::Changed(now) = toolbox::list_tools(None)? else { panic!("unchanged") };
                let again = toolbox::list_tools(Some(now.generation))?;
                assert!(matches!(again, toolbox::Listing::Unchanged));
                outbox::say(format!("{}", now.generation))?;
            }
            "stale" => {
                let generation = call.argument("generation").and_then(|number| number.parse().ok());
                outbox::say(said(toolbox::call_tool(&name, "{}", generation)))?;
            }
            "use" => {
                outbox::say(said(toolbox::call(&name, &arguments)))?;
            }
            "model" => {
                outbox::say(toolbox::call(&name, &arguments)?.for_a_model())?;
            }
            "between" => {
                progress::draft(&Body::Plain("a moment".into()))?;
                outbox::say("before")?;
                let answer = said(toolbox::call(&name, &arguments));
                outbox::say(format!("after: {answer}"))?;
            }
            "twice" => {
                let answers = [toolbox::call(&name, &arguments), toolbox::call(&name, &arguments)];
                outbox::say(answers.map(said).join(" and "))?;
            }
            "often" => {
                let mut times = 0;
                let error = loop {
                    match toolbox::call(&name, &arguments) {
                        Ok(_) => times += 1,
                        Err(error) => break error,
                    }
                };
                outbox::say(format!("{times} times, then {}", told(&error)))?;
            }
            "pass" => {
                toolbox::call(&name, &arguments)?;
            }
            "crash" => {
                let answer = said(toolbox::call(&name, &arguments));
                panic!("after {answer}");
            }
            _ => {}
        }
        Ok(())
    }
}

fn told(error: &Error) -> String {
    let code = error.code.as_ref().map_or_else(String::new, |code| format!(" ({code})"));
    format!("{:?}{code}: {}", error.kind, error.message.as_deref().unwrap_or_default())
}

impl Tools for Handy {
    fn list_tools() -> Vec<Tool> {
        let text = |name: &str, description| {
            let schema = r#"{"type":"object","properties":{"text":{"type":"string","maxLength":200000}}}"#;
            Tool::new(name, description).parameters(schema)
        };
        vec![
            text("say", "Says it, and counts how often, version-1"),
            text("answer", "Answers it").read_only(),
            text("relay", "Calls the first of the tools, and gives it the others"),
            text("large", "Answers so many bytes"),
            text("refuse", "Does not want to"),
            Tool::new("half", "Says something and crashes"),
            Tool::new("fail", "Fails by itself"),
            Tool::new("wait", "Waits for an hour"),
            Tool::new("spin", "Never returns"),
            Tool::new("draft", "Shows a draft"),
            Tool::new("who", "Says where it is, and for whom").read_only(),
            Tool::new("meddle", "Edits its caller's first message"),
        ]
    }

    fn call(call: ToolCall) -> Result<ToolResult, Error> {
        let text = call.text("text").unwrap_or_default();
        let answer = match call.name.as_str() {
            "say" => {
                outbox::say(text)?;
                format!("{}", kv::increment(kv::Scope::Plugin, "said", 1)?)
            }
            "answer" => text,
            "relay" => match text.split_once(' ').unwrap_or((&text, "")) {
                ("", _) => "the end".into(),
                (first, rest) => toolbox::call(first, &format!("{{\"text\":\"{rest}\"}}"))?.untrusted,
            },
            "large" => "x".repeat(text.parse().unwrap_or_default()),
            "refuse" => return Err(Error::denied("not for you").code("stale")),
            "half" => {
                outbox::say("you never see this")?;
                kv::increment(kv::Scope::Plugin, "said", 1)?;
                panic!("after the first half");
            }
            "fail" => return Err(Error::other("nothing works")),
            "wait" => {
                thread::sleep(Duration::from_secs(3600));
                "awake".into()
            }
            "spin" => loop {
                std::hint::black_box(());
            },
            "draft" => {
                progress::draft(&Body::Plain("a tool's".into()))?;
                "drafted".into()
            }
            "who" => format!("{} for {} ({:?})", call.conversation.agent, call.sender.id, call.sender.role),
            "meddle" => {
                outbox::edit(&outbox::MessageRef::Queued(0), &Body::Plain("meddled with".into()))?;
                "edited".into()
            }
            _ => return Err(Error::not_found("there is no such tool")),
        };
        Ok(ToolResult::new(answer))
    }
}

parlour_plugin::export!(Handy: commands, tools);
