//! What wit-bindgen makes of the contract: one world for all that a plugin may import, and one for each
//! interface that it may export, so that a component exports what its author names and nothing else.
//!
//! The export worlds take their types from `imports`: a `Message` is one type everywhere. Nothing in here is
//! for a plugin's own use; the modules beside it are.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]

pub mod imports {
    wit_bindgen::generate!({
        inline: "
            package parlour:sdk;
            world imports {
                include parlour:plugin/imports@0.1.0;
                import wasi:random/random@0.2.0;
            }
        ",
        path: "../../wit",
        generate_all,
    });
}

macro_rules! exports {
    ($interface:ident, $macro_name:literal, $world:literal) => {
        pub mod $interface {
            wit_bindgen::generate!({
                inline: $world,
                path: "../../wit",
                with: { "parlour:plugin/types@0.1.0": crate::bindings::imports::parlour::plugin::types },
                pub_export_macro: true,
                export_macro_name: $macro_name,
            });
        }
    };
}

exports!(
    commands,
    "commands",
    "package parlour:sdk; world commands { export parlour:plugin/commands@0.1.0; }"
);
exports!(
    messages,
    "messages",
    "package parlour:sdk; world messages { export parlour:plugin/messages@0.1.0; }"
);
exports!(timers, "timers", "package parlour:sdk; world timers { export parlour:plugin/timers@0.1.0; }");
exports!(tools, "tools", "package parlour:sdk; world tools { export parlour:plugin/tools@0.1.0; }");
exports!(members, "members", "package parlour:sdk; world members { export parlour:plugin/members@0.1.0; }");
