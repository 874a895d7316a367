"""A program of two steps: shoal run data/capitals --program examples/mayors.py:mayor"""

import shoal
from shoal import llm


@shoal.program
async def mayor(country: str) -> str:
    """The mayor of a country's southernmost city, as the model believes."""
    city = await llm.generate_text(f"Q: What is the southernmost city in {country}? A:", stop=["\n"], max_tokens=24)
    return await llm.generate_text(f"Q: Who is the mayor of {city}? A:", stop=["\n"], max_tokens=24)


if __name__ == "__main__":
    print(shoal.run(shoal.parallel(mayor("France"), mayor("Spain")), model="local"))
