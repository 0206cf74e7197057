defmodule Leash.WalksTest do
  # The walks in CONTRIBUTING.md lead to places that exist, in at most eight steps.
  use ExUnit.Case, async: true

  @contributing File.read!("CONTRIBUTING.md")

  defp walks do
    [_before, section] = String.split(@contributing, "\n## Walks\n")
    [section | _after] = String.split(section, "\n## ")
    [_introduction | walks] = String.split(section, ~r/^\*\*/m)

    for walk <- walks do
      [name, steps] = String.split(walk, "**", parts: 2)
      {name, Regex.scan(~r/^\d+\. `([^`:]+):(\w+[?!]?)`/m, steps, capture: :all_but_first)}
    end
  end

  test "there are four walks of at most eight steps" do
    assert [_, _, _, _] = walks()

    for {name, steps} <- walks(),
        do: assert({name, length(steps)} == {name, min(length(steps), 8)})

    for {_name, steps} <- walks(), do: assert(length(steps) >= 5)
  end

  test "every step names a function of the file" do
    for {name, steps} <- walks(), [file, function] <- steps do
      definition = ~r/^\s*(?:defp? |(?:pub(?:\(crate\))? )?fn )#{Regex.escape(function)}\b/m

      assert {name, file, function, File.read!(file) =~ definition} ==
               {name, file, function, true}
    end
  end
end
