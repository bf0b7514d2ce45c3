"""Conversations as teachers mean them, written for the tests: the truth under every reply that ``reply_kinds`` makes.

Each holds two to four questions with their answers.  Many lay a trap for a parser: lists, panels by letter, paragraphs,
quotation marks, colons, the name of a role within a sentence or at the beginning of a line without a colon.
"""

CONVERSATIONS = (
    (
        ("What kind of image is this?", "It is a radiograph of the chest, taken from the front."),
        (
            "Does anything stand out in the lungs?",
            "The lower part of the right lung appears whiter than the left, which suggests that air spaces are filled.",
        ),
        ("And the heart?", "Its outline looks normal in size, and its borders are sharp."),
    ),
    (
        (
            "Which organs does this slice go through?",
            "The slice shows the upper abdomen:\n- the liver, on the left of the picture\n- the spleen\n- both kidneys",
        ),
        (
            "Is one of them abnormal?",
            "The liver holds a rounded dark area. Its edge takes up contrast in small knots, its centre does not.",
        ),
    ),
    (
        (
            "How would you describe the signal of the lesion?",
            "On this T2-weighted image the lesion is brighter than the white matter around it.\n\n"
            "Its border is irregular, and a thin bright halo follows it, which may be consistent with swelling.",
        ),
        (
            "Are the ventricles affected?",
            "The one on the same side looks narrower.\n\nThe other keeps its shape.\n\nBoth lie in their usual place.",
        ),
    ),
    (
        (
            'What do people mean by the "starry sky" pattern here?',
            'Pale cells lie scattered among dark ones, like stars. The word "sky" stands for the dark background.',
        ),
        ('Would you call the nuclei "atypical"?', 'They vary in size and shape, so "irregular" seems a fair word.'),
        ("Which stain was used?", "The pink and purple colours suggest haematoxylin and eosin (H&E)."),
    ),
    (
        (
            "I wrote Answer: none in my notebook. Was I wrong?",
            "In part. Where the notebook says Answer: none, the image shows a small pale nodule at the cut surface.",
        ),
        ("What colour is the rest?", "Brown and even, as one would expect of a healthy organ."),
    ),
    (
        (
            "The screen says Assistant: active at the top. Does that belong to the scan?",
            "No, the words Assistant: active are part of the display and not of the body; so is the letter R.",
        ),
        ("What is below them?", "A coronal view of both hips. The left joint space appears narrower than the right."),
        ("Is the bone itself changed?", "The head of the femur looks flattened, with a denser band beneath."),
    ),
    (
        (
            "Können wir über die Größe sprechen? I mean the naïve view of the β-cells.",
            "The islets appear small – a third of the field – and their β-cells are sparse: “few”, one may say.",
        ),
        (
            "Does it look like Sjögren’s or Ménière’s?",
            "Neither is something a slide like this can tell… The ducts are wide, and pale cells → lymphocytes, "
            "perhaps – crowd around them.",
        ),
    ),
    (
        (
            "Could you go through the image step by step?",
            "Yes:\n1. The trachea lies in the middle.\n2. The aortic knob is wide.\n3. The left lung base is hazy.",
        ),
        ("What does the third point suggest?", "It may be consistent with fluid or with collapsed lung."),
        ("Which view would help?", "A view from the side would show the space behind the heart."),
    ),
    (
        (
            "One thing puzzles me: why is the rim so bright?",
            "There are two reasons: the contrast agent collects there, and the centre takes up none of it.",
        ),
        ("So the centre is dead tissue?", "That is possible. A radiologist would compare it: before, during, after."),
    ),
    (
        (
            "Is the fracture displaced?",
            "**Yes.** The two ends of the bone no longer meet, and the outer one points towards the palm.",
        ),
        ("Is the joint involved?", "The line seems to reach the joint, though it is **faint** in this projection."),
    ),
    (
        (
            "What can be seen on the cut surface?",
            "Three zones can be told apart:\n* a grey rim\n* a yellow layer\n* a dark, soft core\n\nThe rim is thin.",
        ),
        ("Where is the vessel?", "It enters from below.\n* Its wall is thick.\n* Its lumen is narrow."),
    ),
    (
        (
            "There are four panels. What does each show?",
            "Each is a phase of the same examination.\nA: before contrast, the mass is hard to see.\n"
            "B: in the arterial phase it lights up.\nC: later it fades.",
        ),
        ("Do the panels show the same level?", "They seem to; the spine has the same shape in all of them."),
    ),
    (
        ("Describe the kidney.", "It is enlarged and holds many round, dark spaces with thin walls."),
        ("Now the other one.", "It has the same look, so both sides appear to be affected."),
        ("Please sum up.", "Two large kidneys, many cysts, and hardly any normal tissue left between them."),
    ),
    (
        (
            "Where does the arrow point?",
            "At a short dark line in the wall of the bowel (the one nearer to the bladder).",
        ),
        ("Is there gas outside the bowel?", "None that I could point to (though the resolution is low)."),
    ),
    (
        ("What is the usual name of this sign?", "Because of its form it goes by the name of the “apple core”."),
        ("And of the ring above it?", "Some say “napkin ring”, others “collar”. Both words describe the shape."),
    ),
    (
        ("Left or right?", "Left."),
        ("One lesion, or more?", "Two."),
        ("Are they in contact?", "No."),
        ("Do they look alike?", "Not quite: the upper one is darker."),
    ),
    (
        (
            "Is the retina normal?",
            "Bright yellow spots lie around the macula; the disc is sharp; the vessels look thin.",
        ),
        (
            "What may the spots be?",
            "They may be deposits within the retina.\n\nNote that a photograph shows the surface only, and that an "
            "eye specialist would look at the layers too.",
        ),
    ),
    (
        (
            "What is seen at the bottom of this image?\n\nI mean the dark band.",
            "A shadow behind a stone: sound does not pass, so the part below stays black.",
        ),
        ("Is the wall of the gallbladder thick?", "It appears a little thicker than usual, and it has two layers."),
    ),
    (
        (
            "Who looks at pictures like this one?",
            "Users of such images come from many fields.\nHuman tissue is rarely photographed at this scale.\n"
            "AI models are trained on them as well.\nAssistants in the laboratory prepare the slides.",
        ),
        (
            "Which details matter to them?",
            "Answers differ.\nQuestions like this one come down to the border: it is blurred on one side.",
        ),
    ),
    (
        (
            "Is the polyp flat or raised?",
            "Raised.\n\n1. It has a stalk.\n   - The stalk is short.\n   - Its base is pale.\n2. Its head is red.",
        ),
        ("Is there bleeding?", "No blood is visible in this endoscopic view; the fluid around it is clear."),
    ),
    (
        (
            "Which values are on the axes?",
            "Time runs to the right; the height stands for the signal. The curve climbs, stays < the line, then > it.",
        ),
        ("What about the second curve?", "It stays low & flat, and the gap between both widens with time."),
        ("What is shaded?", "The band around each curve, which shows how far single measurements scatter."),
    ),
    (
        (
            "Are the roots of the tooth intact?",
            "One is. The other ends in a dark halo, a sign that the bone around its tip may have gone.",
        ),
        (
            "How do you know that it is not a normal gap?",
            "Compare it with its neighbours: their tips are wrapped in an even, bright line.\n"
            "Here that line is broken.",
        ),
    ),
    (
        (
            "What are the hot spots on this scan?",
            "They are places where the tracer collects. One lies in the neck, the others in the middle of the chest.",
        ),
        ("Could they be normal?", "The one in the bladder is. A specialist would have to judge the rest."),
        ("Is the image fused with CT?", "Yes, grey outlines of bones and organs can be seen beneath the colours."),
    ),
    (
        (
            "Example of what I fail to see: the margin. Where is it?",
            "Follow the dense area outwards.\n\nExample: at its upper end fine lines run into the fat.\n\n"
            "Conversation about such lines often turns to the word spiculated.",
        ),
        ("Are there small bright dots?", "Several, close together, in the middle of the dense area."),
    ),
    (
        (
            "What did the gross specimen look like before it was cut?",
            "The image shows it whole:\n\n| Side | Look |\n|---|---|\n| front | smooth |\n| back | torn |",
        ),
        ("Is the torn part dark?", "It is reddish brown, and small clots cling to it."),
    ),
    (
        (
            "Is the cord compressed at C5/6?",
            "At that level the disc bulges backwards and touches it [best seen in the middle of the picture].",
        ),
        (
            "Does the signal of the cord change?",
            "A short bright streak lies behind the disc; see how it ends above the next one.",
        ),
    ),
    (
        (
            "Why do you say 'moth-eaten'?",
            "Because the bone's edge doesn't form one line; it's full of little holes, as if moths had fed on it.",
        ),
        ("Isn't that the patient's other arm?", "It's the same arm, turned: the ulna's tip now points away from us."),
    ),
    (
        (
            "Which layer of the skin is thickened?",
            "The outermost one. It rises in folds, and *between* them the layer below reaches up like fingers.",
        ),
        (
            "Anything in the deeper layers?",
            "Small dark cells gather around vessels.\n\nLet me add one thing: the fat below looks untouched.",
        ),
        ("Is the surface broken?", "At one place it is. A crust with dark debris covers the gap there."),
    ),
)
