defmodule Leash.Pool.Template do
  # The options of one worker of a pool, made from its number.
  @moduledoc false

  alias Leash.Schema

  # The pool decides these.
  @taken [:name, :group, :id]

  @type t :: keyword() | map() | (pos_integer() -> keyword() | map())

  @doc false
  @spec expected() :: String.t()
  def expected, do: "options of Leash.Worker, or a function of the number that returns them"

  @doc false
  @spec check(term()) :: {:ok, t()} | {:error, String.t()}
  def check(worker) do
    if is_function(worker, 1) or (is_map(worker) and not is_struct(worker)) or
         (Keyword.keyword?(worker) and worker != []),
       do: {:ok, worker},
       else: {:error, expected()}
  end

  @doc "Returns the options of the worker with this number."
  @spec options(t(), pos_integer()) :: keyword()
  def options(template, number) do
    given = if is_function(template), do: template.(number), else: template
    options = if is_map(given), do: Map.to_list(given), else: given

    if not Keyword.keyword?(options), do: Schema.refuse!(:worker, expected(), given)

    for {key, value} <- options do
      if key in @taken,
        do: Schema.refuse!(:worker, "options without #{inspect(key)}, which the pool sets", value)

      {key, put(key, value, Integer.to_string(number))}
    end
  end

  defp put(:args, args, number) when is_list(args), do: each(args, &text(&1, number))

  defp put(:env, env, number) when is_map(env) and not is_struct(env),
    do: Map.new(env, &variable(&1, number))

  defp put(:env, env, number) when is_list(env), do: each(env, &variable(&1, number))

  defp put(key, {:file, path}, number) when key in [:stdout, :stderr],
    do: {:file, text(path, number)}

  defp put(_key, value, _number), do: value

  # The check of the option refuses what is no list.
  defp each(list, change), do: if(List.improper?(list), do: list, else: Enum.map(list, change))

  defp variable({name, value}, number), do: {name, text(value, number)}
  defp variable(other, _number), do: other

  defp text(text, number) when is_binary(text), do: String.replace(text, "{n}", number)
  defp text(other, _number), do: other
end
