//! The order in which daemons begin, and the circles that have none. Pure.

/// Numbers in an order in which each comes after all that it is `after`, else as they are
/// counted; and the circles, each from its lowest number on, every one after the next and the
/// last after the first. What is in a circle stands where it would if it waited for nobody.
pub(super) fn order(after: &[Vec<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut order: Vec<usize> = Vec::new();
    let mut circles = Vec::new();
    loop {
        let mut rest = (0..after.len()).filter(|index| !order.contains(index));
        let Some(first) = rest.next() else {
            return (order, circles);
        };
        let waits_for = |index: usize| {
            let mut all = after.get(index).into_iter().flatten().copied();
            all.find(|it| !order.contains(it))
        };
        let next = std::iter::once(first)
            .chain(rest)
            .find(|index| waits_for(*index).is_none());
        if let Some(next) = next {
            order.push(next);
            continue;
        }
        // Each waits for another: who follows them comes round.
        let mut walked = Vec::new();
        let mut at = Some(first);
        while let Some(here) = at.filter(|here| !walked.contains(here)) {
            walked.push(here);
            at = waits_for(here);
        }
        let start = walked.iter().position(|index| Some(*index) == at);
        let mut circle = walked.split_off(start.unwrap_or_default());
        let lowest = circle.iter().enumerate().min_by_key(|(_, index)| **index);
        let lowest = lowest.map_or(0, |(place, _)| place);
        circle.rotate_left(lowest);
        order.extend(&circle);
        circles.push(circle);
    }
}

/// All that `index` waits for, whether it says so itself or what it waits for does.
pub(super) fn all_before(after: &[Vec<usize>], index: usize) -> Vec<usize> {
    let mut before = Vec::new();
    let mut open = vec![index];
    while let Some(next) = open.pop() {
        for one in after.get(next).into_iter().flatten() {
            if !before.contains(one) {
                before.push(*one);
                open.push(*one);
            }
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_after_what_it_is_after_else_as_counted() {
        for (after, wanted, circles) in [
            (vec![], vec![], vec![]),
            (vec![vec![], vec![], vec![]], vec![0, 1, 2], vec![]),
            (vec![vec![2], vec![], vec![]], vec![1, 2, 0], vec![]),
            (vec![vec![1], vec![2], vec![]], vec![2, 1, 0], vec![]),
            (vec![vec![], vec![0, 2], vec![0]], vec![0, 2, 1], vec![]),
            (vec![vec![1], vec![0]], vec![0, 1], vec![vec![0, 1]]),
            // Who waits for a circle is in none.
            (
                vec![vec![2], vec![2], vec![3], vec![1]],
                vec![1, 2, 3, 0],
                vec![vec![1, 2, 3]],
            ),
            (
                vec![vec![1], vec![0], vec![3], vec![2]],
                vec![0, 1, 2, 3],
                vec![vec![0, 1], vec![2, 3]],
            ),
        ] {
            assert_eq!(order(&after), (wanted, circles), "{after:?}");
        }
    }

    #[test]
    fn what_comes_before_is_found_through_others_and_round_circles() {
        let after = [vec![1], vec![2, 3], vec![], vec![1]];
        let all = |index| {
            let mut all = all_before(&after, index);
            all.sort_unstable();
            all
        };
        assert_eq!(all(0), [1, 2, 3]);
        assert_eq!(all(1), [1, 2, 3]);
        assert_eq!(all(2), [0; 0]);
    }
}
