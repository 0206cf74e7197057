defmodule Bench.Plot do
  # Draws the table of aims as bars. It needs no package, because an SVG is text.
  #
  # Each row is a panel with a scale of its own. Shorter bars are better in all of them. The
  # colours are mid-tones that stand on white and on black. If the viewer tells the reader's
  # theme, the text follows it.
  @moduledoc false

  alias Bench.Row

  @panels [
    start_open_port: "Start to exit of /bin/true",
    many_start: "1,000 workers started at once",
    many_stop: "The 1,000 stopped at once",
    stop_cooperative: "Stop of one that ends on SIGTERM",
    stop_stubborn: "Stop of one that ignores SIGTERM, past its grace",
    memory_private_dirty: "Memory beside an idle worker, private dirty",
    scan_20000: "One look for marks at 20,000 processes",
    kill: "Kill of a tree of 1,000",
    monitor: "Exit of a program to the message",
    pause: "Longest wait of others during a sweep"
  ]

  @width 840
  @column 410
  @label 142
  @bar 190
  @line 19
  @head 30

  @doc "Returns the picture of the rows that are there."
  def svg(rows, peers, machine) do
    panels = for {key, title} <- @panels, row = find(rows, key), do: {title, row, bars(row, rows)}
    {left, right} = balance(panels)
    height = 56 + max(height(left), height(right)) + 26

    IO.iodata_to_binary([
      ~s(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{@width} #{height}" width="#{@width}" height="#{height}" ),
      ~s(font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12" role="img">\n),
      "<title>Leash beside what is used in its place: less is better</title>\n",
      style(),
      text(10, 22, "Leash beside what is used in its place", "head"),
      text(10, 40, "Less is better in every panel; each has its own scale. #{peers}", "small"),
      column(left, 10),
      column(right, 10 + @column + 10),
      text(10, height - 8, machine, "small"),
      "</svg>\n"
    ])
  end

  defp style do
    """
    <style>
    text { fill: #57606a }
    .head { font-size: 16px; font-weight: 600 }
    .title { font-weight: 600 }
    .small { font-size: 11px }
    .ours { fill: #1a7f6b } .text-ours { fill: #1a7f6b; font-weight: 600 }
    .bare { fill: #8c959f } .peer { fill: #b8834a }
    @media (prefers-color-scheme: dark) {
      text { fill: #b4bcc6 }
      .ours { fill: #35b597 } .text-ours { fill: #35b597 }
      .bare { fill: #6e7781 } .peer { fill: #a97b45 }
    }
    </style>
    """
  end

  # open_port is measured by the start of a port, and the peers have no ports. Their bars come
  # from the row of cmd.
  defp bars(%{key: :start_open_port} = row, rows) do
    case find(rows, :start_cmd) do
      nil ->
        bars(row)

      cmd ->
        [{:ours, "Leash.open_port", row.ours} | tl(bars(%{row | peers: cmd.peers}))] ++
          [{:ours, "Leash.cmd", cmd.ours}]
    end
    |> sort()
  end

  defp bars(row, _rows), do: row |> bars() |> sort()

  defp bars(row) do
    beside = for {label, value} <- row.beside, do: {:bare, short(label), value}
    peers = for {name, value} <- row.peers, is_number(value), do: {:peer, "#{name}", value}
    [{:ours, "Leash", row.ours} | beside ++ peers]
  end

  defp sort(bars), do: Enum.sort_by(bars, &elem(&1, 2))

  defp short(label) do
    label
    |> String.replace("`", "")
    |> String.replace("s, of programs that end with their stdin", "s")
    |> String.replace("pidfd_send_signal(2) and pidfd wait", "signal + pidfd wait")
    |> String.replace("kill and pidfd wait", "kill + pidfd wait")
    |> String.replace("Leash.Worker.stop(worker, kill: true)", "by its living shim")
    |> String.replace("pidfd in the VM's poll set", "pidfd in poll set")
    |> String.replace("idle VM for as long", "idle VM")
  end

  # Makes two columns as even as they can be without a change of the order within them.
  defp balance(panels) do
    Enum.reduce(panels, {[], []}, fn panel, {left, right} ->
      if height(left) <= height(right),
        do: {left ++ [panel], right},
        else: {left, right ++ [panel]}
    end)
  end

  defp height(panels),
    do: Enum.sum(for {_t, _r, bars} <- panels, do: @head + length(bars) * @line + 8)

  defp column(panels, x) do
    {drawn, _y} =
      Enum.map_reduce(panels, 56, fn {_title, _row, bars} = panel, y ->
        {panel(panel, x, y), y + @head + length(bars) * @line + 8}
      end)

    drawn
  end

  defp panel({title, row, bars}, x, y) do
    longest = bars |> Enum.map(&elem(&1, 2)) |> Enum.max() |> max(1.0e-6)

    [
      text(x, y + 18, title, "title"),
      for {{kind, label, value}, index} <- Enum.with_index(bars) do
        top = y + @head + index * @line
        width = max(Float.round(max(value, 0) / longest * @bar, 1), 1.5)

        [
          text(x + @label - 6, top + 11, label, if(kind == :ours, do: "text-ours"), "end"),
          ~s(<rect class="#{kind}" x="#{x + @label}" y="#{top}" width="#{width}" height="#{@line - 5}" rx="2"/>\n),
          text(
            x + @label + width + 5,
            top + 11,
            Row.number(value, row.unit),
            if(kind == :ours, do: "text-ours", else: "small")
          )
        ]
      end
    ]
  end

  defp text(x, y, text, class, anchor \\ "start") do
    ~s(<text x="#{x}" y="#{y}" class="#{class}" text-anchor="#{anchor}">#{escape(text)}</text>\n)
  end

  defp escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
  end

  defp find(rows, key), do: Enum.find(rows, &(&1.key == key))
end
