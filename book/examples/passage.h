/* What the programs of chapters 9 and 13b read with the shipped model. */
#ifndef PASSAGE_H
#define PASSAGE_H

/* King James Bible, Colossians 3: bytes 4190000 to 4190768 of the text, in the part kept for validation. */
static const char passage[] =
    "ore your members which are upon the earth; fornication, uncleanness, inordinate affection, evil "
    "concupiscence, and covetousness, which is idolatry:\n"
    "Col3:6 For which things' sake the wrath of God cometh on the children of disobedience:\n"
    "Col3:7 In the which ye also walked some time, when ye lived in them.\n"
    "Col3:8 But now ye also put off all these; anger, wrath, malice, blasphemy, filthy communication out of "
    "your mouth.\n"
    "Col3:9 Lie not one to another, seeing that ye have put off the old man with his deeds;\n"
    "Col3:10 And have put on the new man, which is renewed in knowledge after the image of him that created "
    "him:\n"
    "Col3:11 Where there is neither Greek nor Jew, circumcision nor uncircumcision, Barbarian, Scythian, bond "
    "nor free: but Christ is all, and in all.\n"
    "Col3:12 P";

#endif
