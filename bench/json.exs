defmodule Bench.Json do
  # The figures for programs. Written by hand, because OTP before 27 has no JSON.
  @moduledoc false

  alias Bench.Stats

  @doc "Returns the text of a term of maps, lists, strings, numbers, booleans and nil."
  def encode(term), do: IO.iodata_to_binary([value(term, ""), "\n"])

  defp value(nil, _indent), do: "null"
  defp value(plain, _indent) when is_boolean(plain) or is_integer(plain), do: to_string(plain)
  defp value(number, _indent) when is_float(number), do: Stats.round_to(number, 4)
  defp value(name, indent) when is_atom(name), do: value(Atom.to_string(name), indent)

  defp value(text, _indent) when is_binary(text),
    do: [?", for(<<c::utf8 <- text>>, do: escape(c)), ?"]

  defp value([], _indent), do: "[]"

  defp value(list, indent) when is_list(list),
    do: block(?[, Enum.map(list, &value(&1, indent <> "  ")), ?], indent)

  defp value(map, _indent) when map == %{}, do: "{}"

  defp value(map, indent) do
    pairs =
      for {key, value} <- Enum.sort_by(map, &to_string(elem(&1, 0))),
          do: [value(to_string(key), ""), ": ", value(value, indent <> "  ")]

    block(?{, pairs, ?}, indent)
  end

  defp block(open, items, close, indent) do
    [open, Enum.map_intersperse(items, ",", &["\n", indent, "  ", &1]), "\n", indent, close]
  end

  defp escape(c) when c in [?", ?\\], do: [?\\, c]
  defp escape(c) when c < 32, do: :io_lib.format("\\u~4.16.0b", [c])
  defp escape(c), do: <<c::utf8>>
end
