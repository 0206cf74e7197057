defmodule Bench.Row do
  # One line of the table of aims, as numbers. Table, JSON and plot use the same rows.
  @moduledoc false

  alias Bench.{Peers, Stats}

  @enforce_keys [:key, :what, :unit, :ours]
  defstruct [:key, :what, :unit, :ours, beside: [], aims: [], peers: %{}, note: nil]

  @doc "Returns the ratio to the first of `beside`, or nil without one."
  def ratio(%{beside: [{_label, value} | _]} = row), do: row.ours / max(value, 1.0e-9)
  def ratio(_row), do: nil

  @doc "Returns whether each aim is met, or nil where there is no aim."
  def met?(%{aims: []}), do: nil
  def met?(row), do: Enum.all?(row.aims, &reached?(&1, row))

  # Compares the printed ratio: a ratio that prints as 1.15 meets an aim of 1.15.
  defp reached?({:ratio, most}, row), do: Float.round(ratio(row) / 1, 2) <= most
  defp reached?({:at_most, most}, row), do: row.ours <= most
  defp reached?({:more, most}, %{beside: [{_, value} | _]} = row), do: row.ours - value <= most
  defp reached?({:faster, times}, row), do: ratio(row) <= 1 / times

  defp reached?({:faster_than, label, times}, row) do
    {_label, value} = List.keyfind(row.beside, label, 0)
    row.ours * times <= value
  end

  defp reached?(:below_all, row), do: Enum.all?(others(row), &(row.ours < &1))

  defp others(row) do
    Enum.map(row.beside, &elem(&1, 1)) ++ Enum.filter(Map.values(row.peers), &is_number/1)
  end

  @doc "Returns the heads of the columns."
  def heads do
    ["what", "Leash", "beside", "ratio", "aim", "met"] ++ Enum.map(Peers.columns(), &head/1)
  end

  defp head({name, _label, _contestant}), do: "#{name}"

  @doc "Returns the cells of a row, as Markdown."
  def cells(row) do
    [
      row.what,
      number(row.ours, row.unit) <> note(row.note),
      Enum.map_join(row.beside, ", ", fn {label, value} ->
        "#{label} #{number(value, row.unit)}"
      end),
      with(ratio when ratio != nil <- ratio(row), do: Stats.round_to(ratio, 2)) || "—",
      aim(row),
      case met?(row) do
        nil -> "—"
        true -> "yes"
        false -> "**no**"
      end
    ] ++
      for {name, _label, _contestant} <- Peers.columns() do
        case row.peers[name] do
          nil -> "—"
          text when is_binary(text) -> text
          value -> number(value, row.unit)
        end
      end
  end

  defp note(nil), do: ""
  defp note(text), do: " (#{text})"

  @doc "Returns the aims in words."
  def aim(%{aims: []}), do: "—"

  def aim(row) do
    Enum.map_join(row.aims, ", ", fn
      {:ratio, most} -> "≤ #{most} ×"
      {:at_most, most} -> "≤ #{most} #{row.unit}"
      {:more, most} -> "≤ #{most} #{row.unit} more"
      {:faster, times} -> "≥ #{times} × faster"
      {:faster_than, label, times} -> "≥ #{times} × faster than #{label}"
      :below_all -> "below all"
    end)
  end

  @doc "Returns a value with its significant digits."
  def number(value, unit), do: "#{digits(value)} #{unit}"

  def digits(value) when abs(value) >= 100, do: "#{round(value)}"
  def digits(value) when abs(value) >= 10, do: Stats.round_to(value, 1)
  def digits(value) when abs(value) >= 1, do: Stats.round_to(value, 2)
  def digits(value), do: Stats.round_to(value, 3)

  @doc "Returns the row for `Bench.Json`."
  def to_map(row) do
    %{
      key: row.key,
      what: row.what,
      unit: row.unit,
      leash: row.ours,
      beside: for({label, value} <- row.beside, do: %{what: label, value: value}),
      ratio: ratio(row),
      aim: aim(row),
      met: met?(row),
      peers: row.peers,
      note: row.note
    }
  end
end
