//! The pictures of docs/concepts.md and docs/threat-model.md.

use crate::drawing::{Drawing, Side};

/// Every picture: its file in docs/images, and what stands in it.
pub fn all() -> [(&'static str, String); 7] {
    [
        ("where-it-stands.svg", where_it_stands()),
        ("rollout.svg", rollout()),
        ("phases.svg", phases()),
        ("labels.svg", labels()),
        ("evidence.svg", evidence()),
        ("cluster.svg", cluster()),
        ("trust.svg", trust()),
    ]
    .map(|(name, drawing)| (name, drawing.svg()))
}

fn where_it_stands() -> Drawing {
    Drawing::new((760, 330), "Clients ask the edge; it divides requests between two versions, compares what comes of them, and moves the weights")
        .boxed((20, 60, 110, 56), "plain", &["clients"])
        .boxed((250, 40, 180, 96), "edge", &["edge", "one draw per request,", "one snapshot of weights"])
        .boxed((570, 20, 170, 56), "stable", &["v1, stable", "95 % of the requests"])
        .boxed((570, 100, 170, 56), "canary", &["v2, canary", "5 % of the requests"])
        .arrow("", &[(130, 88), (248, 88)])
        .arrow("is-stable", &[(430, 74), (568, 50)])
        .arrow("is-canary", &[(430, 102), (568, 126)])
        .boxed((250, 220, 180, 76), "edge", &["control loop", "every 100 ms", "worse, beyond doubt?"])
        .arrow("", &[(300, 136), (300, 218)])
        .words((292, 182), Side::Left, "small", "outcomes")
        .arrow("", &[(380, 220), (380, 138)])
        .words((390, 182), Side::Right, "small", "weights")
        .boxed((20, 210, 150, 40), "plain", &["config file"])
        .boxed((20, 266, 150, 40), "plain", &["operators"])
        .arrow("", &[(170, 230), (248, 246)])
        .arrow("", &[(170, 286), (248, 270)])
        .boxed((570, 230, 170, 56), "plain", &["state, decision log", "file or live Service"])
        .arrow("", &[(430, 258), (568, 258)])
}

fn rollout() -> Drawing {
    let base = Drawing::new((760, 330), "The canary's weight over time: steps of 1, 5, 25 and 50 percent, promotion and bake; a regression takes it to 0 at once")
        .line("faint", &[(70, 60), (740, 60)])
        .line("faint", &[(70, 124), (740, 124)])
        .line("faint", &[(70, 170), (740, 170)])
        .line("", &[(70, 40), (70, 280), (740, 280)]);
    let axis = [("100 %", 60), ("50 %", 124), ("25 %", 170), ("5 %", 231), ("1 %", 258), ("0 %", 280)];
    let base = axis.iter().fold(base, |drawing, (words, y)| drawing.words((62, y + 5), Side::Left, "small", words));
    let phases = [("warming", 90), ("shifting: a hold for each step", 265), ("baking", 520), ("steady", 680)];
    let base = phases.iter().fold(base, |drawing, (words, x)| drawing.words((*x, 34), Side::Middle, "small", words));
    base.line(
        "is-stable",
        &[
            (70, 280),
            (110, 280),
            (110, 258),
            (150, 258),
            (150, 231),
            (230, 231),
            (230, 170),
            (340, 170),
            (340, 124),
            (450, 124),
            (450, 60),
            (740, 60),
        ],
    )
    .line("is-bad dashed", &[(290, 170), (290, 278)])
    .line("is-bad", &[(290, 279), (560, 279)])
    .words((300, 246), Side::Right, "", "worse, beyond doubt: 0 %, and it stays there")
    .words((300, 266), Side::Right, "small", "until its revision changes, or somebody says retry")
    .line("dashed", &[(450, 40), (450, 198)])
    .line("dashed", &[(600, 40), (600, 198)])
    .words((450, 214), Side::Middle, "small", "promoted: not worse, proven")
    .words((640, 214), Side::Middle, "small", "the old version may go")
    .words((460, 84), Side::Right, "small", "old version warm")
}

fn phases() -> Drawing {
    Drawing::new((760, 300), "Phases: warming, shifting, promoting, baking, steady; paused and rolled back beside them")
        .boxed((20, 40, 110, 50), "canary", &["warming"])
        .boxed((170, 40, 110, 50), "canary", &["shifting"])
        .boxed((320, 40, 110, 50), "edge", &["promoting"])
        .boxed((470, 40, 110, 50), "edge", &["baking"])
        .boxed((630, 40, 110, 50), "stable", &["steady"])
        .arrow("", &[(130, 65), (168, 65)])
        .arrow("", &[(280, 65), (318, 65)])
        .arrow("", &[(430, 65), (468, 65)])
        .arrow("", &[(580, 65), (628, 65)])
        .boxed((170, 150, 110, 50), "plain", &["paused"])
        .arrow("", &[(205, 90), (205, 148)])
        .arrow("", &[(245, 150), (245, 92)])
        .words((252, 124), Side::Right, "small", "resume")
        .words((198, 124), Side::Left, "small", "pause")
        .line("is-bad", &[(75, 90), (75, 240)])
        .line("is-bad", &[(525, 90), (525, 240)])
        .line("is-bad", &[(375, 90), (375, 240)])
        .line("is-bad", &[(225, 200), (225, 240)])
        .arrow("is-bad", &[(75, 240), (628, 240)])
        .boxed((630, 215, 110, 50), "bad", &["rolled back"])
        .words((340, 262), Side::Middle, "small", "a proven regression, or `rollback`, from every phase of a rollout")
        .words((740, 282), Side::Left, "small", "until a new revision or `retry`")
}

fn labels() -> Drawing {
    let rows = [
        (60, "All is well", "of 20 errors in a second about 1 is the canary's", 20, 1),
        (140, "Both are hit by an outage", "of 30 errors, still one in twenty", 30, 2),
        (220, "The canary is worse", "of 20 errors 14 carry its label", 20, 14),
    ];
    let base = Drawing::new(
        (760, 290),
        "Errors of one second as dots: at a weight of 5 percent one in twenty belongs to the canary unless it is worse",
    );
    rows.iter()
        .fold(base, |drawing, &(y, name, words, errors, of_canary)| {
            let class = if of_canary > 2 { "strong" } else { "" };
            let drawing =
                drawing.words((20, y - 16), Side::Right, class, name).words((230, y - 16), Side::Right, "small", words);
            (0..errors).fold(drawing, |drawing, index| {
                // The canary's lie spread among the others: every `apart`th is one.
                let apart = errors / of_canary;
                let is_canary = index % apart == apart - 1 && index / apart < of_canary;
                let class = if is_canary { "canary" } else { "stable" };
                drawing.dot((30 + index * 23, y + 8), class)
            })
        })
        .dot((480, 268), "stable")
        .words((494, 273), Side::Right, "small", "error of stable")
        .dot((610, 268), "canary")
        .words((624, 273), Side::Right, "small", "error of the canary")
}

fn evidence() -> Drawing {
    Drawing::new((760, 300), "Odds over time: those of a sound canary wander and stay low, those of a worse one pass the limit, and it is taken back")
        .line("", &[(70, 30), (70, 250), (740, 250)])
        .line("is-bad dashed", &[(70, 70), (740, 70)])
        .words((78, 62), Side::Right, "small", "the limit: a sound canary ever comes here with a chance that you set")
        .words((78, 196), Side::Right, "small", "even odds")
        .line("faint", &[(70, 200), (740, 200)])
        .line(
            "is-stable",
            &[(70, 200), (110, 206), (150, 194), (190, 210), (230, 198), (270, 214), (310, 190), (350, 208), (390, 216), (430, 202), (470, 218), (510, 209), (550, 222), (590, 211), (630, 224), (670, 214), (720, 226)],
        )
        .line("is-bad", &[(350, 208), (370, 200), (390, 168), (410, 150), (430, 118), (450, 98), (464, 70)])
        .dot((464, 70), "bad")
        .words((478, 92), Side::Right, "", "taken back")
        .line("dashed", &[(350, 208), (350, 262)])
        .words((350, 278), Side::Middle, "small", "here it begins to fail")
        .words((722, 245), Side::Left, "small", "a sound canary: looked at ten times a second, for ever")
        .words((740, 278), Side::Left, "small", "time")
}

fn cluster() -> Drawing {
    let edges = [(40, "leads: decides"), (250, "follows"), (460, "follows")];
    let base = Drawing::new((760, 420), "Three edges serve alike; one of them, which holds the Lease, decides on what all count and moves the live Service")
        .boxed((300, 16, 160, 40), "plain", &["clients"])
        .words((470, 40), Side::Right, "small", "through the Service of the edges")
        .area((20, 90, 600, 160), "");
    let base = edges.iter().fold(base, |drawing, (x, words)| {
        drawing.boxed((*x, 120, 140, 60), "edge", &["edge", words]).arrow("", &[(380, 56), (x + 70, 118)])
    });
    base.arrow("dashed", &[(180, 150), (248, 150)])
        .arrow("dashed", &[(150, 180), (150, 204), (480, 204), (480, 182)])
        .words((315, 222), Side::Middle, "small", "five times a second: what did you count?")
        .words((315, 241), Side::Middle, "small", "all serve with the same weights")
        .boxed((640, 120, 105, 60), "plain", &["Lease", "who leads"])
        .boxed((30, 310, 160, 60), "plain", &["live Service", "selector, state"])
        .arrow("", &[(70, 180), (70, 308)])
        .words((78, 282), Side::Right, "small", "one patch at promotion and rollback")
        .boxed((330, 310, 160, 60), "stable", &["pods of v1", "their own Service"])
        .boxed((540, 310, 160, 60), "canary", &["pods of v2", "their own Service"])
        .arrow("is-stable", &[(520, 180), (430, 308)])
        .arrow("is-canary", &[(560, 180), (610, 308)])
        .arrow("", &[(190, 340), (328, 340)])
        .words((110, 392), Side::Middle, "small", "clients that do not go")
        .words((110, 408), Side::Middle, "small", "through the edge")
}

fn trust() -> Drawing {
    Drawing::new((760, 430), "Who can reach the edge: clients at the data port, operators at the admin port, other edges at the replica port; and what it reaches")
        .area((250, 30, 260, 330), "the edge: one process")
        .boxed((270, 70, 220, 64), "edge", &["data port", "no identity unless client_ca"])
        .boxed((270, 160, 220, 64), "edge", &["admin port, 9900", "token, or this machine only"])
        .boxed((270, 250, 220, 64), "edge", &["replica port, 9901", "shared token, no TLS"])
        .boxed((20, 74, 160, 56), "bad", &["clients", "trusted with nothing"])
        .arrow("", &[(180, 102), (268, 102)])
        .boxed((20, 164, 160, 56), "plain", &["operators", "may do everything"])
        .arrow("", &[(180, 192), (268, 192)])
        .boxed((20, 254, 160, 56), "plain", &["other edges", "may move weights"])
        .arrow("", &[(180, 282), (268, 282)])
        .boxed((575, 50, 175, 56), "canary", &["model servers", "TLS if upstream_tls"])
        .arrow("", &[(490, 92), (573, 78)])
        .boxed((575, 140, 175, 56), "plain", &["API server", "Role: named objects"])
        .arrow("", &[(510, 168), (573, 168)])
        .boxed((575, 230, 175, 56), "plain", &["webhooks, gates", "signed by HMAC"])
        .arrow("", &[(510, 258), (573, 258)])
        .boxed((575, 320, 175, 56), "plain", &["Prometheus, traces", "read, written to"])
        .arrow("", &[(510, 340), (573, 348)])
        .boxed((235, 378, 290, 40), "plain", &["files: config, tokens, keys, state"])
        .arrow("", &[(380, 378), (380, 362)])
}
