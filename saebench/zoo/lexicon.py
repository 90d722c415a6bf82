"""Words and sentence patterns of the demo stories."""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _words(
    "Mary Anna Clara Ruth Nora Lucy Julia Greta Helen Ida Jane Kate Laura Mona Nina Olga "
    "Paula Rosa Sara Tina Vera Wanda Yara Zoe Bella Carla Dora Emma Fiona Gina Hilda Lena"
)
BOYS = _words(
    "Tom John Paul Mark Peter Simon Oscar Felix Hugo Ivan Jack Karl Leo Max Noah Otto "
    "Pablo Ralph Sam Theo Victor Walter Adam Ben Carl David Eric Frank George Henry Lars Martin"
)
NAMES = GIRLS + BOYS
SURNAMES = _words(
    "Abbott Adler Barlow Becker Brandt Carver Chapman Cohen Dalton Decker Draper Ellis Fisher "
    "Foster Gruber Haines Hansen Harper Holt Hubbard Jensen Keller Kramer Lambert Larsen Lowell "
    "Maurer Mercer Miller Nolan Novak Palmer Parker Pierce Porter Quinn Ramsey Reed Rossi Sawyer "
    "Schmidt Shaw Sutton Thorpe Turner Vogel Weber Winter"
)

OBJECTS = _words(
    "lamp key map book ring knife coin bell drum flute mirror basket bottle candle hammer ladder "
    "letter needle pencil pillow rope saddle shovel spoon sword ticket violin wheel whistle button "
    "blanket brush camera carpet clock comb compass crown feather flag glove helmet jar kettle "
    "lantern medal necklace paddle painting pipe purse puzzle ribbon sack scarf shell statue torch "
    "trumpet vase"
)
PLACES = _words(
    "barn garden kitchen forest market church cellar tower harbor bridge school bakery library "
    "stable meadow village castle cave mill museum palace park station theater valley windmill "
    "cabin chapel desert field hotel hospital lake mountain prison river shop tent tunnel vineyard "
    "workshop yard beach canyon courtyard dock farm hallway"
)
FOODS = _words(
    "bread cheese soup honey rice fish cake pie beans butter carrots cherries chicken chocolate "
    "corn grapes ham jam lemons melons milk mushrooms noodles nuts pancakes peaches pears plums "
    "porridge potatoes pudding salad sausages tomatoes"
)
ANIMALS = _words(
    "dog cat horse goat sheep rabbit parrot pony cow duck goose donkey fox frog hamster hen "
    "kitten lamb lizard mouse monkey pig pigeon puppy raven rooster snake spider squirrel swan "
    "tiger turtle"
)
JOBS = _words(
    "baker teacher doctor farmer sailor painter singer miner tailor pilot lawyer nurse plumber "
    "soldier waiter writer barber butcher captain carpenter clerk cook dancer driver fisherman "
    "gardener hunter judge mason potter printer shepherd"
)
COLOURS = _words(
    "red blue green yellow white black brown pink purple gray golden silver violet crimson "
    "scarlet turquoise beige lilac maroon bronze copper cream navy teal"
)
TROUBLES = _words(
    "storm flood fire quarrel robbery wedding funeral festival strike parade drought fever "
    "landslide blizzard battle race contest meeting concert trial shipwreck harvest burial feast"
)
FEELINGS = _words(
    "happy sad tired hungry proud lonely nervous calm bored curious grateful jealous hopeful "
    "gloomy cheerful worried surprised sleepy brave shy"
)
ADJECTIVES = _words(
    "small big tall heavy long short bright dark deep clean dirty dusty famous fresh gentle huge "
    "narrow new noisy plain pretty quiet rich rough round sharp simple slow smooth soft strange "
    "strong tiny warm wide wild wooden young broken hidden"
)
ADVERBS = _words(
    "slowly quickly quietly loudly gently carefully happily sadly suddenly proudly bravely "
    "calmly gladly kindly lazily nervously politely secretly softly warmly"
)
TIMES = _words("morning evening afternoon night day weekend")
NUMBERS = _words("two three four five six seven eight nine ten twelve twenty fifty")
MOVES = _words("walked ran hurried wandered rode crept marched sailed")
SOUNDS = _words("song noise whisper laugh cry bark knock melody scream hum")

SEASONS: dict[str, dict[str, tuple[str, ...]]] = {
    "spring": {
        "sky": _words("mild breezy showery fresh"),
        "plant": _words("tulips daisies blossoms buds lilies"),
    },
    "summer": {
        "sky": _words("hot sunny dry cloudless"),
        "plant": _words("roses poppies sunflowers berries clover"),
    },
    "autumn": {
        "sky": _words("windy foggy rainy misty"),
        "plant": _words("leaves acorns pumpkins chestnuts apples"),
    },
    "winter": {
        "sky": _words("snowy icy freezing frosty"),
        "plant": _words("pines icicles twigs firs branches"),
    },
}


@dataclass(frozen=True)
class Relation:
    """A kind of fact that relates a key to a value: sentences that state it, and that recall it.

    `recalls` end in the value, `reverse` in the key; each omits its last word. Where `keys` is
    empty, the keys are the story's people.
    """

    name: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    tells: tuple[str, ...]
    recalls: tuple[str, ...]
    reverse: tuple[str, ...] = ()


TITLES = (
    Relation(
        "job",
        JOBS,
        NAMES,
        (
            "Everybody liked the {k} {v}.",
            "Near the {place} lived the {k} {v}.",
            "Then came the {k} {v} with a {adj} bag.",
            "They had sent for the {k} {v}.",
        ),
        (
            "They asked for help from the {k}",
            "The only one who knew the way was the {k}",
            "At last they found the {k}",
            "Nobody trusted the {k}",
        ),
    ),
    Relation(
        "pet",
        ANIMALS,
        NAMES,
        (
            "{who} came with the {k} {v}.",
            "Behind the {place} slept the {k} {v}.",
            "The children played with the {k} {v}.",
            "{who} had raised the {k} {v} for {num} years.",
        ),
        (
            "{who} looked everywhere for the {k}",
            "In the {adj} grass lay the {k}",
            "{who} gave some {food} to the {k}",
            "From far away came the {k}",
        ),
    ),
    Relation(
        "surname",
        (),
        SURNAMES,
        (
            "{k} {v} was {feel}.",
            "In the {place} they met {k} {v}.",
            "{k} {v} {move} over the {adj} road.",
            "The house belonged to {k} {v}.",
        ),
        (
            "On the letter stood the full name, {k}",
            "The teacher called out the full name, {k}",
            "In full the name was {k}",
        ),
    ),
    Relation(
        "thing",
        COLOURS,
        OBJECTS,
        (
            "On the table lay the {k} {v}.",
            "{who} had found the {k} {v} in the {place}.",
            "{who} carried the {k} {v} in a {adj} bag.",
            "They had bought the {k} {v} for {num} coins.",
        ),
        (
            "{who} asked for the {k}",
            "Under the {adj} blanket they found the {k}",
            "{who} {adv} picked up the {k}",
            "Nobody had seen the {k}",
        ),
    ),
)

HABITS = (
    Relation(
        "object",
        (),
        OBJECTS,
        (
            "{k} carried a {v} in a {adj} bag.",
            "{k} had brought a {v} from home.",
            "In the pocket of {k} there was a {v}.",
            "{k} never left home without a {v}.",
        ),
        (
            "When the bag of {k} fell open, out came the",
            "From the pocket {k} took the",
            "{k} still held the",
            "As always, {k} had brought the",
        ),
        (
            "Everybody knew that the {v} was brought by",
            "The one who carried the {v} was",
            "They gave the {v} back to",
        ),
    ),
    Relation(
        "place",
        (),
        PLACES,
        (
            "{k} {move} to the {v} and stayed there.",
            "{k} was waiting in the {v}.",
            "{k} {adv} went into the {v}.",
            "They saw {k} near the {v}.",
        ),
        (
            "They looked for {k} and went to the",
            "{k} could still be found in the",
            "All this time {k} had been in the",
            "Nobody had seen {k} leave the",
        ),
        (
            "The only one in the {v} was",
            "Somebody in the {v} called out, and it was",
        ),
    ),
    Relation(
        "food",
        (),
        FOODS,
        (
            "{k} loved to eat {v}.",
            "The favorite food of {k} was {v}.",
            "{k} could live on {v} alone.",
        ),
        (
            "At dinner {k} asked for more",
            "For {k} the cook made a plate of",
            "As always, {k} wanted",
        ),
        (
            "The plate of {v} was meant for",
            "Nobody liked {v} more than",
        ),
    ),
    Relation(
        "trouble",
        (),
        TROUBLES,
        (
            "{k} came late because of the {v}.",
            "{k} was {feel} after the {v}.",
            "{k} could not sleep because of the {v}.",
        ),
        (
            "{k} was late, and the reason was the",
            "{k} told them again about the",
            "{k} was {feel} because of the",
        ),
        (
            "The one who spoke of the {v} was",
            "Nobody had suffered more from the {v} than",
        ),
    ),
    Relation(
        "friend",
        (),
        NAMES,
        (
            "The best friend of {k} was {v}.",
            "{k} had grown up with {v}.",
            "{k} trusted nobody but {v}.",
        ),
        (
            "When {k} needed help, it came from",
            "{k} wrote a {adj} letter to",
            "More than anybody, {k} trusted",
        ),
    ),
)

RELATIONS = TITLES + HABITS

MOVED = (
    "Later {k} left the {old} and went to the {v}.",
    "Then {k} {move} from the {old} to the {v}.",
)

OPENINGS = (
    "One {sky} {time} in {season} {num} friends met in the {place}.",
    "It was a {sky} {time} in {season}.",
    "Many years ago, in a {adj} town near the {place}, there lived {num} people.",
    "This is the story of {who} and {who2}.",
    "{who} and {who2} met on a {sky} {time} in {season}.",
    "Once there was a {adj} {place}.",
)

CLOSINGS = (
    "In the end everybody went home {feel}.",
    "That was the end of a {adj} {time}.",
    "They never forgot that {season}.",
    "After that {who} and {who2} were friends forever.",
)

SONGS = (
    "{who} sang: {song}.",
    "Then {who} sang the song: {song}.",
    "The children in the {place} sang: {song}.",
    "{who} and {who2} sang it together: {song}.",
    "Once more they sang: {song}.",
)

FILLERS = (
    "The {time} was {sky} and the {plant} were {adj}.",
    "The {plant} near the {place} looked {adj}.",
    "In {season} the {time} can be {sky}.",
    "{who} felt {feel} and {adv} closed the door.",
    "{who} said that {pron} was {feel}.",
    "{who} smiled at {who2} and {who2} smiled back.",
    "{who} asked {who2} a {adj} question.",
    "Then {who} {adv} told {who2} a {adj} story.",
    "{who} and {who2} talked about a {job}.",
    "A {adj} {animal} {move} over the {adj} road.",
    "They heard a {adj} {sound} from the {place}.",
    "There was a {adj} {object} on the table.",
    "Somebody had left {num} coats by the door.",
    "{who} counted {num} birds above the {place}.",
    "After {num} hours they were {feel}.",
    "On the wall hung a {adj} picture of a {animal}.",
    "The {job} from the {place} sold {food} and {food}.",
    "{who} dreamed of a {adj} {animal} and woke up {feel}.",
    "It was {sky}, so {who} stayed by the fire.",
    "Because the road was {adj}, they {move} {adv}.",
    "{who} sang a {adj} song and {who2} listened {adv}.",
    "A stranger asked about the {trouble}, but nobody answered.",
    "{who2} gave {who} some {food} and thanked {obj}.",
    "{who} thought of the {plant} and felt {feel}.",
    "For {num} days nothing happened.",
    "The old {job} laughed {adv}.",
    "They ate {food} with {food} and drank {adj} tea.",
    "{who} wanted to know if {who2} was {feel}.",
    "Far away, behind the {place}, a {sound} could be heard.",
)
