//! What a question in `PromQL` asks for, and which labels its answer has.

use std::collections::BTreeSet;

use promql_parser::label::Matchers;
use promql_parser::parser::token::{T_LAND, T_LUNLESS};
use promql_parser::parser::{self, AggregateExpr, BinaryExpr, Call, Expr, LabelModifier, VectorSelector};

use super::Series;

/// One question, understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expression {
    /// Labels of the answer.
    pub labels: BTreeSet<String>,
    /// Series and labels that do not exist, or why the text is not understood.
    pub problems: Vec<String>,
}

impl Expression {
    /// Reads a text; what it may ask for are `series`.
    pub fn read(text: &str, series: &Series) -> Self {
        match parser::parse(text) {
            Ok(parsed) => {
                let mut reader = Reader { series, problems: Vec::new() };
                let labels = reader.labels(&parsed);
                Self { labels, problems: reader.problems }
            }
            Err(problem) => {
                Self { labels: BTreeSet::new(), problems: vec![format!("`{text}` is no PromQL: {problem}")] }
            }
        }
    }
}

struct Reader<'a> {
    series: &'a Series,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn labels(&mut self, expression: &Expr) -> BTreeSet<String> {
        match expression {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Call(call) => self.call(call),
            Expr::Paren(inner) => self.labels(&inner.expr),
            Expr::Unary(inner) => self.labels(&inner.expr),
            Expr::Subquery(inner) => self.labels(&inner.expr),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => BTreeSet::new(),
        }
    }

    fn selector(&mut self, selector: &VectorSelector) -> BTreeSet<String> {
        let name = selector.name.as_deref().unwrap_or_default();
        let Some(labels) = self.series.labels(name) else {
            self.problems.push(format!("`{name}` does not exist"));
            return BTreeSet::new();
        };
        let Matchers { matchers, or_matchers } = &selector.matchers;
        for matcher in matchers.iter().chain(or_matchers.iter().flatten()) {
            if !labels.contains(&matcher.name) {
                self.problems.push(format!("`{name}` has no label `{}`", matcher.name));
            }
        }
        labels.clone()
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr) -> BTreeSet<String> {
        let inner = self.labels(&aggregate.expr);
        match &aggregate.modifier {
            Some(LabelModifier::Include(kept)) => self.known(&kept.labels, &inner),
            Some(LabelModifier::Exclude(dropped)) => {
                let dropped = self.known(&dropped.labels, &inner);
                inner.difference(&dropped).cloned().collect()
            }
            None => BTreeSet::new(),
        }
    }

    fn binary(&mut self, binary: &BinaryExpr) -> BTreeSet<String> {
        let (left, right) = (self.labels(&binary.lhs), self.labels(&binary.rhs));
        let matching = binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref());
        let is_filter = [T_LAND, T_LUNLESS].contains(&binary.op.id());
        match matching {
            Some(LabelModifier::Include(on)) => {
                self.known(&on.labels, &right);
                let kept = self.known(&on.labels, &left);
                if is_filter { left } else { kept }
            }
            // Without `on` two vectors match by all their labels: where these differ, nothing ever matches.
            _ if !left.is_empty() && !right.is_empty() && left != right => {
                self.problems.push(format!("`{binary}` matches nothing: {left:?} beside {right:?}"));
                left
            }
            _ if left.is_empty() => right,
            _ => left,
        }
    }

    fn call(&mut self, call: &Call) -> BTreeSet<String> {
        let mut labels = BTreeSet::new();
        for argument in &call.args.args {
            labels.extend(self.labels(argument));
        }
        match call.func.name {
            "absent" => BTreeSet::new(),
            "histogram_quantile" => {
                if !labels.remove("le") {
                    self.problems.push(format!("`{call}` has lost the edges of its histogram; by (le)"));
                }
                labels
            }
            _ => labels,
        }
    }

    /// The labels named, after a look whether they are there.
    fn known(&mut self, named: &[String], there: &BTreeSet<String>) -> BTreeSet<String> {
        for label in named.iter().filter(|label| !there.contains(*label)) {
            self.problems.push(format!("groups or matches by `{label}`, which is not there"));
        }
        named.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Series {
        Series::listed(
            "| metric | kind | labels | meaning |\n\
             | `requests_total` | counter | `route`, `outcome` | Requests. |\n\
             | `seconds` | histogram | `route` | How long. |\n\
             | `info` | gauge | none | Always 1. |\n",
        )
    }

    fn check(question: &str, labels: &[&str], problem: Option<&str>) {
        let read = Expression::read(question, &series());
        assert_eq!(read.labels.iter().map(String::as_str).collect::<Vec<_>>(), labels, "{question}");
        match problem {
            Some(part) => {
                assert!(read.problems.iter().any(|one| one.contains(part)), "{question}: {:?}", read.problems);
            }
            None => assert_eq!(read.problems, Vec::<String>::new(), "{question}"),
        }
    }

    #[test]
    fn the_labels_of_an_answer_are_those_that_it_is_grouped_by() {
        check("sum by (route) (rate(requests_total{outcome=\"error\"}[5m]))", &["route"], None);
        check("sum(requests_total)", &[], None);
        check("histogram_quantile(0.5, sum by (route, le) (rate(seconds_bucket[5m])))", &["route"], None);
        check("absent(info)", &[], None);
        check(
            "max by (route) (requests_total) > 3 and on (route) sum by (route, outcome) (requests_total)",
            &["route"],
            None,
        );
    }

    #[test]
    fn what_does_not_exist_is_named() {
        check("request_total", &[], Some("`request_total` does not exist"));
        check("sum by (version) (requests_total)", &["version"], Some("`version`, which is not there"));
        check("sum(requests_total{code=\"200\"})", &[], Some("no label `code`"));
        check("sum(seconds)", &[], Some("`seconds` does not exist"));
        check("histogram_quantile(0.5, sum by (route) (rate(seconds_bucket[5m])))", &["route"], Some("lost the edges"));
        check(
            "sum by (route) (requests_total) / sum by (outcome) (requests_total)",
            &["route"],
            Some("matches nothing"),
        );
        check("sum by (", &[], Some("is no PromQL"));
    }
}
