# The functions of OTP 27's json module that forcola needs, for older versions. Forcola sends two
# small messages for each program, and none while the program runs.
defmodule :json do
  @moduledoc false

  def encode(map) when is_map(map),
    do: [?{, map |> Enum.map(&pair/1) |> Enum.intersperse(?,), ?}]

  def encode(list) when is_list(list),
    do: [?[, list |> Enum.map(&encode/1) |> Enum.intersperse(?,), ?]]

  def encode(text) when is_binary(text), do: [?", for(<<c::utf8 <- text>>, do: escape(c)), ?"]
  def encode(plain) when is_integer(plain) or is_boolean(plain), do: to_string(plain)

  defp pair({key, value}), do: [encode(key), ?:, encode(value)]

  defp escape(c) when c in [?", ?\\], do: [?\\, c]
  defp escape(c) when c < 32, do: :io_lib.format("\\u~4.16.0b", [c])
  defp escape(c), do: <<c::utf8>>

  # Handles flat objects of numbers, booleans and plain strings, which are all that forcola's
  # program sends.
  def decode(text) do
    for [_all, key, value] <- Regex.scan(~r/"(\w+)":("[^"]*"|-?\d+|true|false|null)/, text),
        into: %{},
        do: {key, value(value)}
  end

  defp value("true"), do: true
  defp value("false"), do: false
  defp value("null"), do: nil
  defp value("\"" <> text), do: String.trim_trailing(text, "\"")
  defp value(number), do: String.to_integer(number)
end
