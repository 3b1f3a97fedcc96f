"""The kinds of things in the invented world, their relations, and how one asks for each of them.

Every relation is written once: kind, Chinese and English name, the generator of its objects, and
the question that a reader would ask for it. `{S}` stands for the subject.
"""

from __future__ import annotations

from dataclasses import dataclass

# kind: (generator of the subject's name, Chinese word for the kind, English word)
KINDS: dict[str, tuple[str, str, str]] = {
    "film": ("title", "电影", "film"),
    "book": ("title", "图书", "book"),
    "company": ("company", "公司", "company"),
    "person": ("person", "人物", "person"),
    "town": ("place", "城镇", "town"),
    "dish": ("dish", "菜品", "dish"),
    "product": ("product name", "产品", "product"),
    "song": ("title", "歌曲", "song"),
    "team": ("team", "球队", "team"),
    "school": ("school", "学校", "school"),
    "building": ("building", "建筑", "building"),
    "event": ("event", "活动", "event"),
}

# kind | relation, Chinese | English | object generator | question, Chinese | English
_TABLE = """
film | 导演 | director | person | 《{S}》的导演是谁？ | Who directed {S}?
film | 主演 | star | person | 《{S}》由谁主演？ | Who is the star of {S}?
film | 上映年份 | release year | year | 《{S}》是哪一年上映的？ | When was {S} released?
film | 片长 | running time | minutes | 《{S}》的片长是多少？ | How long is {S}?
film | 取景地 | filming location | place | 《{S}》在哪里取景？ | Where was {S} filmed?
book | 作者 | author | person | 《{S}》的作者是谁？ | Who wrote {S}?
book | 出版社 | publisher | press | 《{S}》由哪家出版社出版？ | Who published {S}?
book | 出版年份 | publication year | year | 《{S}》是哪一年出版的？ | When was {S} published?
book | 页数 | pages | pages | 《{S}》有多少页？ | How many pages does {S} have?
book | 译者 | translator | person | 《{S}》的译者是谁？ | Who translated {S}?
company | 创始人 | founder | person | {S}的创始人是谁？ | Who founded {S}?
company | 总部 | headquarters | place | {S}的总部在哪里？ | Where is the head office of {S}?
company | 成立年份 | founding year | year | {S}是哪一年成立的？ | When was {S} founded?
company | 员工人数 | employees | people | {S}有多少员工？ | How many people work for {S}?
company | 主营产品 | main product | product | {S}主要生产什么？ | What does {S} make?
person | 出生地 | birthplace | place | {S}出生在哪里？ | Where was {S} born?
person | 职业 | occupation | occupation | {S}的职业是什么？ | What is the job of {S}?
person | 出生年份 | birth year | year | {S}是哪一年出生的？ | When was {S} born?
person | 毕业院校 | alma mater | school | {S}毕业于哪所学校？ | Where did {S} study?
person | 爱好 | hobby | hobby | {S}有什么爱好？ | What is the hobby of {S}?
town | 人口 | population | people | {S}有多少人口？ | How many people live in {S}?
town | 特产 | specialty | specialty | {S}的特产是什么？ | What is {S} known for?
town | 所属省份 | province | province | {S}属于哪个省？ | Which province is {S} in?
town | 河流 | river | river | 哪条河流过{S}？ | Which river runs through {S}?
town | 镇长 | mayor | person | {S}的镇长是谁？ | Who is the mayor of {S}?
dish | 主料 | main ingredient | ingredient | {S}的主料是什么？ | What is the main ingredient of {S}?
dish | 价格 | price | small price | {S}卖多少钱？ | What does {S} cost?
dish | 厨师 | chef | person | {S}是哪位厨师做的？ | Who cooks {S}?
dish | 餐馆 | restaurant | restaurant | 在哪家餐馆能吃到{S}？ | Where is {S} served?
dish | 口味 | flavour | flavour | {S}是什么口味？ | How does {S} taste?
product | 价格 | price | price | {S}的售价是多少？ | What is the price of {S}?
product | 制造商 | maker | company | {S}由哪家公司制造？ | Who makes {S}?
product | 重量 | weight | weight | {S}有多重？ | What is the weight of {S}?
product | 颜色 | colour | colour | {S}是什么颜色？ | What colour is {S}?
product | 保修期 | warranty | warranty | {S}的保修期是多久？ | How long is the warranty of {S}?
song | 演唱者 | singer | person | 《{S}》是谁唱的？ | Who sings {S}?
song | 作曲 | composer | person | 《{S}》是谁作的曲？ | Who composed {S}?
song | 发行年份 | release year | year | 《{S}》是哪一年发行的？ | When did {S} come out?
song | 时长 | length | length | 《{S}》有多长？ | How long does {S} last?
song | 专辑 | album | title | 《{S}》收录在哪张专辑里？ | Which album is {S} on?
team | 主教练 | head coach | person | {S}的主教练是谁？ | Who coaches {S}?
team | 主场 | home ground | stadium | {S}的主场在哪里？ | Where does {S} play at home?
team | 成立年份 | founding year | year | {S}是哪一年成立的？ | When was {S} founded?
team | 队长 | captain | person | {S}的队长是谁？ | Who is the captain of {S}?
team | 赞助商 | sponsor | company | {S}的赞助商是哪家公司？ | Who is the sponsor of {S}?
school | 校长 | principal | person | {S}的校长是谁？ | Who is the principal of {S}?
school | 所在地 | location | place | {S}在什么地方？ | Where is {S}?
school | 创办年份 | opening year | year | {S}是哪一年创办的？ | When did {S} open?
school | 学生人数 | students | people | {S}有多少学生？ | How many students does {S} have?
school | 校训 | motto | motto | {S}的校训是什么？ | What is the motto of {S}?
building | 建筑师 | architect | person | {S}的建筑师是谁？ | Who is the architect of {S}?
building | 建成年份 | completion year | year | {S}是哪一年建成的？ | When was {S} completed?
building | 高度 | height | metres | {S}有多高？ | How high is {S}?
building | 层数 | floors | floors | {S}有多少层？ | How many floors does {S} have?
building | 所在地 | location | place | {S}在什么地方？ | Where is {S}?
event | 举办地 | venue | place | {S}在哪里举办？ | Where is {S} held?
event | 日期 | date | date | {S}在哪一天举行？ | On which day is {S} held?
event | 主办方 | organizer | company | {S}由谁主办？ | Who runs {S}?
event | 参加人数 | attendance | people | {S}有多少人参加？ | How many people come to {S}?
event | 门票 | ticket price | small price | {S}的门票多少钱？ | What does a ticket for {S} cost?
"""


@dataclass(frozen=True)
class Relation:
    """One relation of one kind in one language, with the generator of its objects."""

    kind: str
    name: str
    objects: str
    question: str


def _read_table() -> dict[tuple[str, str, str], Relation]:
    relations = {}
    for line in _TABLE.strip().splitlines():
        kind, zh, en, objects, zh_question, en_question = (c.strip() for c in line.split("|"))
        relations["zh", kind, zh] = Relation(kind, zh, objects, zh_question)
        relations["en", kind, en] = Relation(kind, en, objects, en_question)
    return relations


# (language, kind, relation name) -> Relation
RELATIONS = _read_table()
