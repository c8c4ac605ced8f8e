"""What programs ask: batch jobs, small applications, tests. Two halves of templates, one vocabulary."""

from __future__ import annotations

from typing import Final

from azeotrope.gateway.signals.simulate.grammar import lists

BATCH: Final = lists(
    """
a: Classify the sentiment of the following product review as positive, negative or neutral. Answer with one word.
  Review: {review} | You are a support triage system. Assign one category (billing, delivery, technical, other) to
  this ticket. Ticket: {ticket} | Extract brand, model, color and price from the offer below and return JSON.
  Offer: {offer} | Translate into {tongue}, keep the tone and do not add anything: {review} | Summarize the call
  notes in two sentences for the account manager. Notes: {ticket} {ticket} {ticket} | Normalize this postal address
  to street, number, postcode, city: {address} | Does the comment break the community rules? Answer yes or no with
  a reason. Comment: {review}
b: Rate how urgent the message is from 1 to 5. Reply with the number only. Message: {ticket} | Write a product
  description of 40 words for our web shop. Product: {offer} | Given the job posting, list the required skills,
  separated by commas. Posting: {posting} | Anonymize the text: replace names, places and numbers by placeholders.
  Text: {ticket} {address} | Tag the headline with up to three topics from our list (economy, sports, culture,
  science, local). Headline: {headline} | Correct spelling and grammar. Return only the corrected text. Text:
  {review} {ticket} | Which of our departments should answer? Think step by step, then name it. Mail: {ticket}
  {review}
"""
)
APPS: Final = lists(
    """
a: You are MailPilot. Draft a reply in the user's voice to the mail below. Mail: {ticket} {ticket} | TripDeck
  itinerary engine. Propose a day plan for this request: {headline} {address}
b: You are NoteWise. Turn these meeting notes into action items with owners. Notes: {posting} {ticket} | ShelfBot
  listing helper. Improve the title and three bullet points of this listing: {offer}
"""
)
TESTS: Final = lists(
    """
a: Is the answer "{review}" a correct reply to "{ticket}"? Reply with A or B. | Choose the better option. (A)
  {headline} (B) {headline} | Fill in the blank with one word: {offer} is sold by ____ .
b: Grade the reply from 0 to 10. Question: {ticket} Reply: {review} | True or false: {headline} | Which sentence is
  more natural? 1: {review} 2: {ticket}
"""
)
WORDS: Final = lists(
    """
tongue: German | Spanish | Dutch | Swedish
review: {verb1} this {product} for my {kin} {when}. The {part} {verdict}, but the {part} {verdict}. {closing} | The
  {part} of the {product} {verdict}. {closing} {verb1} it {when}. | {closing} My {kin} uses the {product} every day
  and the {part} {verdict}. | After {n:2-60} days the {part} {verdict}. Otherwise the {product} is {quality}.
  {closing}
verb1: Bought | Ordered | Received | Returned | Got | Unpacked
product: {quality} {item} | {item} | {item} from {maker}
item: kettle | headset | backpack | desk lamp | tent | blender | rain jacket | keyboard | stroller | drill |
  mattress | toaster | yoga mat | suitcase | monitor | watch | grill | bookshelf | cooler | projector | helmet |
  scale
maker: Norrvik | Delmar | Hikari | Orbis | Talweg | Kestrel | Brandt & Co | Fenwick | Lumo
kin: father | son | office | neighbor | niece | wife | partner | workshop | dog
when: last {day} | two weeks ago | for {holiday} | in {month} | on sale | by mistake
day: Monday | Tuesday | Wednesday | Thursday | Friday | weekend
holiday: Christmas | his birthday | our anniversary | the summer camp | Easter
month: May | August | November | February | April
part: handle | battery | zipper | manual | color | delivery | packaging | lid | sound | stitching | app | cable |
  price
verdict: is superb | broke after {n:2-40} days | feels cheap | exceeded my hopes | smells odd | works as described
  | could be better | is far too small | was missing | surprised everyone | needs getting used to | is {quality}
quality: solid | flimsy | elegant | noisy | average | clever | heavy | gorgeous | plain | overpriced | sturdy
closing: Would buy again. | Never again! | {n:1-5} stars. | Not sure yet. | Five stars from the {kin}. | You get
  what you pay for. | Customer service was {quality}. | Recommended.
ticket: My order {n:10000-99999} of a {item} {problem} since {day}. {plea} | I was charged {n:2-5} times for the
  {item}. {plea} | The {item} shows error {n:100-999} when I {action}. {plea} | Can I {action} although the {item}
  {problem}? {plea} | Since the update in {month} I cannot {action}. The {part} {verdict}.
problem: has not arrived | arrived without the {part} | is stuck in customs | was delivered to my {kin} | is broken
  | does not turn on | keeps disconnecting
plea: Please call me. | I want my money back. | What should I do? | This is the {n:2-4}th time. | Thank you,
  {name}. | Regards, {name} | It is urgent!
action: log in | change the address | cancel my plan | print the label | pair the {item} | redeem a voucher |
  upgrade
name: A. Larsen | Priya N. | Tom from {town} | Mrs. Okafor | J. Duarte | Ling | Mr. Baptiste | Ewa K. | Sam
town: Graz | Leeds | Aarhus | Nantes | Tampere | Bilbao | Utrecht | Brno | Cork | Parma | Bonn | Malmo
offer: {maker} {item} {n:100-990}X, {quality}, {color}, {n:15-899} euros, {n:1-5} year warranty | {color} {item} by
  {maker}, model {n:10-99}-{n:100-999}, was {n:100-400} now {n:20-99} euros | {n:2-6} x {item}, {quality}, {color},
  used {n:2-24} months, pick-up in {town}
color: black | sand | navy | olive | white | rust red | silver | mint
address: {n:1-240} {street}, {n:10000-99999} {town} | {street} {n:1-99}b, {town} | {name}, {street} {n:1-80},
  {town}
street: Harbor Lane | Lindenweg | Rue des Forges | Mill Street | Via Roma | Station Road | Kastanienallee | Calle
  Luna
posting: We look for a {role} in {town}: {duty}, {duty} and {duty}. {n:2-8} years of {field}.
role: baker | controller | field engineer | nurse | store manager | technician | translator | planner
duty: you lead {n:2-20} people | you {action2} daily | you travel to {town} | you report to the board | you train
  staff
action2: check stock | write offers | repair machines | plan shifts | test samples | visit clients
field: retail | logistics | care | welding | accounting | tourism
headline: {town} {event} after {n:2-30} years | {field} in {town}: {event} | Why the {role} from {town} {event} |
  {n:100-900} visitors as {town} {event}
event: opens a bridge | loses the final | votes on a tram | celebrates its market | saves the library | bans
  scooters | wins a prize | argues over parking | finds a Roman wall
"""
)
