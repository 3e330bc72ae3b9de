"""The colors that known data sets give their classes, by name, in hexadecimal RGB."""

from __future__ import annotations

Color = tuple[int, int, int]

VOID_COLOR: Color = (224, 224, 192)
"""Of pixels without a class, as VOC draws them."""

BACKGROUNDS = frozenset(("background", "bg", "nothing", "none", "other", "rest"))
"""What class 0 is called where it is all that is around the others."""

# Names are without spaces, in small letters.
# Cordts et al., CVPR 2016; https://www.cityscapes-dataset.com
_CITYSCAPES = """
road 804080 sidewalk f423e8 building 464646 wall 66669c fence be9999 pole 999999 trafficlight faaa1e
trafficsign dcdc00 vegetation 6b8e23 terrain 98fb98 sky 4682b4 person dc143c rider ff0000 car 00008e
truck 000046 bus 003c64 train 005064 motorcycle 0000e6 bicycle 770b20
"""
# Brostow et al., "Semantic object classes in video", 2009; its 32 classes, and the names of the 11 that most use.
_CAMVID = """
animal 408040 archway c00080 bicyclist 0080c0 bridge 008040 building 800000 car 400080 cartluggagepram 4000c0
child c08040 columnpole c0c080 pole c0c080 fence 404080 lanemkgsdriv 8000c0 lanemkgsnondriv c00040
misctext 808040 motorcyclescooter c000c0 othermoving 804040 parkingblock 40c080 pedestrian 404000 road 804080
roadshoulder 8080c0 sidewalk 0000c0 pavement 0000c0 signsymbol c08080 sign c08080 sky 808080
suvpickuptruck 4080c0 trafficcone 000040 trafficlight 004040 train c04080 tree 808000 truckbus c080c0
tunnel 400040 vegetationmisc c0c000 wall 40c000
"""
# The 20 classes of Everingham et al., "The PASCAL Visual Object Classes Challenge", in their order.
_VOC = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor
"""
# The 80 things of Lin et al., "Microsoft COCO", in the colors of its panoptic task (Kirillov et al., 2019).
_COCO = """
person dc143c bicycle 770b20 car 00008e motorcycle 0000e6 airplane 6a00e4 bus 003c64 train 005064 truck 000046
boat 0000c0 trafficlight faaa1e firehydrant 64aa1e stopsign dcdc00 parkingmeter af74af bench fa001e bird a52a2a
cat ff4dff dog 00e2fc horse b6b6ff sheep 005200 cow 78a69d elephant 6e4c00 bear ae39ff zebra c76400
giraffe 480076 backpack ffb3f0 umbrella 007d5c handbag d10097 tie bcd0b6 suitcase 00dcb0 frisbee ff63a4
skis 5c0049 snowboard 8581ff sportsball 4eb4ff kite 00e400 baseballbat aefff3 baseballglove 2d59ff
skateboard 868667 surfboard 9194ae tennisracket ffd0ba bottle c5e2ff wineglass ab8601 cup 6d3f36 fork cf8aff
knife 97005f spoon 09503d bowl 546933 banana 4a4169 apple a6c466 sandwich d0c3d2 orange ff6d41 broccoli 008f95
carrot b300c2 hotdog d1636a pizza 057900 donut e3ffcd cake 93bad0 chair 994501 couch 035fa1 pottedplant a3ff00
bed 7700aa diningtable 00b6c7 toilet 00a578 tv b78258 laptop 5f2000 mouse 827287 remote 6e8185 keyboard a64a76
cellphone db8eb9 microwave 4fd272 oven b25a3e toaster 41460f sink 7fa773 refrigerator 3b696a book 8e6c2d
clock c4ac00 vase 5f3650 scissors 804cff teddybear c93901 hairdrier f6007a toothbrush bfa2d0
"""


def _read(table: str) -> dict[str, Color]:
    words = table.split()
    return {
        name: (int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16))
        for name, code in zip(words[::2], words[1::2], strict=True)
    }


def _voc_color(number: int) -> Color:
    """Of class ``number``: its bits, three at a time, are the high bits of red, green and blue."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (number >> channel & 1) << 7 - place
        number >>= 3
    return color[0], color[1], color[2]


KNOWN: dict[str, dict[str, Color]] = {
    "Cityscapes": _read(_CITYSCAPES),
    "CamVid": _read(_CAMVID),
    "VOC": {name: _voc_color(number) for number, name in enumerate(_VOC.split(), start=1)},
    "COCO": _read(_COCO),
}
"""By data set. Where several know all of some classes, the first counts."""
