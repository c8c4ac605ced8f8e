"""What people ask an assistant, by subject. Two halves: for calibrations and for reports."""

from __future__ import annotations

from typing import Final

from azeotrope.gateway.signals.simulate.grammar import lists

OPENINGS: Final = lists(
    """
a: hi, | hey, | hello! | please: | quick question: | ok so | thanks, that helps. now | one more thing: | um, | good
  morning. | sorry to bother you again, | I have a question: | can you help? | urgent:
b: so | hello there, | another one: | hi again. | help please: | right, | well, | not sure who to ask, but | hm. |
  back again: | this may be silly, but | for tomorrow: | hey there! | could use a hand:
"""
)
CLOSINGS: Final = lists(
    """
a: thanks! | keep it short. | please be honest. | in simple words please. | bullet points are fine. | I have about
  {n:5-45} minutes. | my {relative} asked. | I am a beginner. | no jargon. | with an example if you can.
b: cheers | not too long please. | what would you do? | just the gist. | as a list. | explain why, too. | it is for
  my {relative}. | I only have {n:10-90} dollars. | I know the basics. | be brutally honest.
relative: sister | boss | uncle | daughter | neighbor | teacher | roommate | mother | colleague | grandfather
"""
)
FOLLOW_UPS: Final = lists(
    """
a: make it shorter | can you give me an example? | why? | what do you mean by the second point? | that did not work
  | try again but more friendly | and what if I do not have one? | translate that into {language} | thank you! |
  are you sure? | how long would that take? | what about {n:2-9} of them? | go on | can you put that in a table
b: shorter please | hmm, not quite. another version? | what is the downside? | can you say more about the last
  part? | does that change in winter? | ok and the cheapest option? | sorry, I meant the other one | great, thanks
  | in {language} please | where did you get that from? | continue | what would that cost for {n:2-6} people?
language: Spanish | German | French | Polish | Italian | Dutch | Portuguese
"""
)

_HALVES: Final = {
    "a": """
cooking: how do I {cook} {food} without {mishap}? | what can I make with {food}, {food} and {food}? | my {food}
  came out too {taste}, what went wrong? | is it safe to eat {food} that was in the fridge for {n:2-12} days? |
  give me a dinner plan for {n:2-7} days with lots of {food} and no {food} | what goes well with {taste} {food}?
travel: what should I see in {city} in {n:2-6} days? | is {city} or {city} better in {month} with {company}? | how
  do I get from {city} to {city} by {vehicle}? | draft a packing list for {city} in {month} | which part of {city}
  is quiet but close to {sight}? | do I need cash in {city}?
letters: write a {tone} email to my {person} about {matter} | rewrite this to sound {tone}: I will not be able to
  come because of {matter} | how do I politely refuse {matter} from my {person}? | a short {tone} note for {event},
  for my {person} | is it rude to answer my {person} only about {matter}?
coding: why does my {language} {thing} throw {error}? | how do I {act} a {thing} in {language}? | what is the
  difference between a {thing} and a {thing} in {language}? | write a {language} function that can {act} a {thing}
  with {n:2-5} arguments | my {language} tests fail with {error} only on {place} | review this idea: {act} every
  {thing} on {place}
fitness: how many {exercise} should a {n:20-70} year old do? | a {n:3-8} week plan for {goal} with {gear} | my
  {limb} hurts after {exercise}, should I stop? | what should I eat before {exercise} in the {time}? | is
  {exercise} or {exercise} better for {goal}?
garden: when do I plant {plant} if the last frost is in {month}? | the leaves of my {plant} turn {color}, what is
  it? | can {plant} and {plant} share a bed? | how often do I water {plant} on a {side} balcony? | what eats
  {plant} at night?
money: should I pay off {debt} or save for {goal2} first? | explain {finance} to a {n:12-19} year old | how do I
  split {cost} fairly between {n:2-6} roommates? | what happens to {debt} when I move abroad? | a monthly budget
  for {cost} and {cost} on {n:14-48} hundred a month
history: what caused {happening}? | who was involved in {happening} and what did they want? | was {happening}
  really as important as my {person} says? | compare {happening} with {happening} | a {tone} summary of {happening}
  for a talk
fiction: write a {tone} story about a {hero} who finds {object} in {city} | give me {n:3-9} names for a {hero} from
  a cold country | how could a {hero} escape from {sightplace} without {object}? | a poem on {object} and {month} |
  does this opening work: the {hero} never wanted {object}
homework: a rectangle is {n:3-20} cm wide and {n:21-60} cm long, what is its diagonal? | {name2} reads {n:10-40}
  pages a day, when is a book of {n:200-600} pages finished? | factor x^2 + {n:5-12}x + {n:6-35} | how many ways
  are there to pick {n:2-4} of {n:5-12} {plant}? | a car brakes from {n:40-120} km/h in {n:3-9} seconds, how far
  does it go? | is {n:101-997} a prime number and how do I check that? | what is {n:5-45} percent of {n:60-900} and
  how do I get there
pets: my {pet} keeps {habit}, how do I stop it? | can a {pet} eat {food}? | how do I introduce a {pet} to a {pet}?
  | what does it mean when a {pet} is {habit} at night? | is a {pet} right for a flat of {n:30-90} square meters?
--: -
name2: Tim | Anna | Paul | Mia | my brother | a class of {n:20-30}
cook: roast | fry | bake | steam | grill | braise | poach | reheat | marinate | freeze
food: chicken thighs | lentils | eggplant | rice | salmon | mushrooms | tofu | potatoes | spinach | beef |
  chickpeas | leeks | pumpkin | noodles | cabbage | eggs | sourdough | tomatoes | beans | halloumi | cauliflower |
  shrimp
mishap: burning it | drying it out | making it soggy | losing the flavor | smoking up the kitchen | using oil
taste: salty | dry | bitter | chewy | bland | greasy | spicy | sour | sweet
city: Lisbon | Kyoto | Krakow | Oaxaca | Tallinn | Marrakesh | Vienna | Hanoi | Porto | Ghent | Bergen | Cusco |
  Turin | Tbilisi | Seville | Osaka | Malaga | Riga | Lyon | Zagreb
month: January | March | April | June | July | September | October | December | February | May | August | November
company: two toddlers | my parents | a big dog | a wheelchair | three friends | no car
vehicle: night train | bus | ferry | bicycle | rental car | plane
sight: the old town | the harbor | a good market | the main station | the museums
tone: friendly | formal | funny | short | warm | firm | apologetic | cheerful | serious | neutral
person: landlord | boss | aunt | professor | coach | client | neighbor | dentist | brother | team
matter: a broken heater | the late invoice | a wedding in {city} | a sick day | the noise at night | a missing
  parcel | a raise | the school trip | a job in {city} | the meeting on {n:2-28} {month}
event: a retirement | a new baby | a lost pet | a birthday | a house warming | a graduation
language: Python | JavaScript | Rust | Go | Java | SQL | bash | TypeScript | C++ | Ruby
thing: list | dictionary | class | iterator | socket | migration | decorator | queue | thread | template | cache |
  regex
act: sort | flatten | copy | test | stream | lock | serialize | mock | validate | merge | profile | log
error: a timeout | a type error | a null pointer | an index error | a deadlock | a permission error | an import
  error
place: Windows | the server | my laptop | a Raspberry Pi | the pipeline | an old phone
exercise: squats | planks | running | rowing | yoga | push-ups | swimming | deadlifts | cycling | stretching |
  hiking
goal: a half marathon | a stronger back | losing {n:3-15} kilos | better sleep | my first pull-up | a ski trip
gear: one kettlebell | no equipment | a gym card | resistance bands | a bike | a park bench
limb: knee | lower back | shoulder | wrist | ankle | hip | neck
time: morning | evening | lunch break | heat
plant: basil | tomatoes | hydrangeas | strawberries | lavender | an olive tree | orchids | zucchini | roses | ferns
  | chives
color: yellow | brown at the tips | pale | spotted | purple | curly
side: shady | sunny | windy | north facing | tiny
debt: my student loan | the credit card | a car loan | a mortgage | what I owe my uncle
goal2: a house | a sabbatical | a new roof | retirement | a baby
finance: inflation | compound interest | an index fund | short selling | a pension | taxes on gifts | exchange
  rates
cost: the rent | heating | groceries | internet | a shared car | repairs | insurance
happening: the fall of Constantinople | the Dust Bowl | the Meiji restoration | the Suez crisis | the Hanseatic
  League | the great fire of London | the Dreyfus affair | the Marshall plan | the tulip mania | the voyage of
  Magellan
hero: clockmaker | retired spy | baker | lighthouse keeper | thief | young witch | surgeon | robot | goat herder |
  pilot
object: a silver key | an unsent letter | a map without names | a talking kettle | a violin | a locked box | a red
  coat
sightplace: a sinking ship | a frozen castle | the archive | a desert prison | an empty train
pet: cat | old dog | rabbit | parrot | kitten | puppy | hamster | tortoise
habit: scratching the sofa | barking | hiding | chewing cables | waking me up | overeating | sneezing
""",
    "b": """
health: what helps against {ailment} besides {remedy}? | how long does {ailment} usually last in {who}? | is
  {remedy} fine together with {remedy}? | what should I ask the doctor about {ailment}? | I have had {ailment} for
  {n:2-20} days, is that normal?
letters: draft a {tone} message to my {person} concerning {matter} | reword this so that it is more {tone}: we
  cannot accept {matter} | what do I answer when my {person} brings up {matter}? | a {tone} toast for {event} |
  should I apologize to my {person} for {matter}?
home: how do I fix {damage} in {room}? | what paint do I need for {room} with {damage}? | which {appliance} uses
  less power, for {n:1-6} people? | how do I get {stain} out of {fabric}? | the {appliance} makes a {noise} noise,
  is it broken? | can I drill into {room} walls next to a {appliance}?
study: explain {concept} like I am {n:8-16} | quiz me on {concept} | what is the connection between {concept} and
  {concept}? | summarize what I need for an exam on {concept} in {n:3-9} points | how do I remember {concept}? | a
  {tone} study plan for {concept} until {weekday}
homework: solve {n:2-9}x + {n:3-30} = {n:31-99} | a cylinder holds {n:2-20} liters and is {n:10-50} cm high, how
  wide is it? | {n:2-6} dice are thrown, how likely is a sum of {n:6-20}? | two trains {n:100-600} km apart drive
  towards each other at {n:60-120} and {n:60-160} km/h, when do they meet? | the mean of {n:5-9} numbers is
  {n:4-40}, one more makes it {n:4-40}, which? | derive x^{n:2-6} sin({n:2-9}x) | how many moles are {n:5-90} g of
  water? | who is older if {fan2}
sheets: which formula counts {cells} by {column}? | my pivot table shows {oddity}, why? | how do I {sheetact}
  {cells} in a spreadsheet? | chart {cells} over {n:6-36} months, which type? | how can I lock {column} but let
  others {sheetact} {cells}? | what does {oddity} mean in a cell?
work: how do I answer "{interview}" in an interview? | I was told that {complaint}; how do I react? | what is a
  fair salary for a {job} in {region}? | help me plan {n:2-8} weeks of onboarding for a {job} | write a {tone} job
  ad for a {job} who can {skill} | should a {job} learn to {skill}?
games: best opening for {game} with {n:2-6} players? | is {game} fun with {who}? | house rules that make {game}
  shorter | what is a good strategy in {game} when you are behind? | invent a quiz with {n:5-15} questions about
  {fan} | who would win, {fan} or {fan}?
music: which chords fit {mood} songs in {scale}? | how do I practice {instrument} with {limit}? | songs like {fan}
  but more {mood} | how do I tune {instrument} by ear? | what makes {mood} music sound {mood}? | lyrics about
  {matter}, two verses
nature: why do {animal} {behavior}? | what is that bird, {size} with a {mark} head, seen in {region}? | how do
  {animal} survive {season}? | are {animal} dangerous to {who}? | how many {animal} are left in {region}? | where
  can I watch {animal} in {season}?
law: can my {person} {legalact} without telling me? | what is the notice period if I {legalact} in {region}? |
  explain {document} in plain words | what should {document} contain for {matter}? | who pays when {damage} happens
  in a rented {room}?
--: -
fan2: Ben is {n:2-9} years younger than Eva and twice as old as Kim was {n:2-5} years ago? | Max says he is not the
  youngest and Lea says that Max lies?
ailment: a stiff neck | hay fever | a dry cough | heartburn | migraines | a sprained thumb | jet lag | hiccups |
  insomnia | a sunburn | sinus pressure | cramps
remedy: ginger tea | ibuprofen | magnesium | a hot bath | melatonin | saline spray | rest | antihistamines
who: toddlers | adults | teenagers | seniors | cats | a pregnant woman | beginners | kids of {n:4-12}
tone: diplomatic | casual | upbeat | concise | sincere | strict | playful | professional | humble | calm
person: tenant | manager | cousin | tutor | supplier | flatmate | in-laws | electrician | mentor | board
matter: the deposit | overtime | a double booking | the budget for {weekday} | a leaking roof | the parking spot |
  unpaid leave | a canceled concert | the new schedule | the dog hair
event: a silver wedding | a farewell | a promotion | the choir's jubilee | a christening | the final match
damage: a crack | mold | a dripping tap | loose tiles | a dent | peeling wallpaper | a draft | a scratch
room: the bathroom | a rented kitchen | the hallway | an attic | the cellar | a child's room
appliance: dishwasher | dryer | heat pump | induction hob | freezer | boiler | vacuum robot
stain: red wine | grease | candle wax | ink | blood | coffee | grass
fabric: linen | a wool carpet | jeans | a leather bag | a silk tie | the car seat
noise: rattling | humming | clicking | high | grinding
concept: photosynthesis | the Doppler effect | supply and demand | Bayes' rule | mitosis | the subjunctive |
  entropy | plate tectonics | recursion | the carbon cycle | covalent bonds | matrices | the French article | the
  Krebs cycle
weekday: Monday | Tuesday | Thursday | Friday | Sunday
cells: open orders | empty rows | late payments | unique customers | dates | duplicates
column: region | month | sales person | product | status
oddity: #REF! | only zeros | a circular reference | the wrong year | ##### | (blank)
sheetact: merge | import | sum | transpose | filter | sort | round
interview: what is your weakness | why us | where are you in {n:2-9} years | describe a conflict | why did you
  leave
complaint: I talk too much | my reports are late | I should delegate | nobody reads my tickets | I seem distant
job: nurse | data analyst | pastry chef | site manager | tax clerk | UX designer | bus driver | lab technician |
  welder
skill: negotiate | code a little | speak in public | plan shifts | read balance sheets | teach
region: Bavaria | Ontario | Scotland | Queensland | Ohio | Catalonia | the Baltics | Kerala
game: Catan | chess | charades | Carcassonne | bridge | Uno | Go | backgammon | a sea battle game
fan: Star Trek | the Beatles | Zelda | Agatha Christie | Formula 1 | Studio Ghibli | Sherlock Holmes | ABBA
mood: melancholic | dreamy | angry | triumphant | sleepy | romantic | tense
scale: C minor | D dorian | E major | a pentatonic scale | B flat
instrument: a ukulele | the cello | a harmonica | my guitar | the trumpet | a drum kit
limit: {n:10-40} minutes a day | thin walls | small hands | no teacher
animal: storks | hedgehogs | octopuses | wolves | fireflies | beavers | salmon | bats | foxes | jellyfish | ravens
behavior: migrate | dance | hide food | sing at night | change color | live in groups
size: small | the size of a pigeon | huge | slim
mark: red | black and white | crested | green
season: winter | a drought | spring | the rainy season
legalact: raise the rent | cancel the contract | keep a pet | record a call | work from abroad | sell the car
document: a power of attorney | a sublease | a non-compete clause | a will | a warranty | a liability waiver
""",
}


def _split(text: str) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    subjects, _, words = text.partition("--: -")
    return lists(subjects), lists(words)


_PARTS: Final = {half: _split(text) for half, text in _HALVES.items()}
SUBJECTS: Final = {half: parts[0] for half, parts in _PARTS.items()}
WORDS: Final = {half: parts[1] for half, parts in _PARTS.items()}
